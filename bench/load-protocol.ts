/** Requests for the load process: the same one, again and again, over keep-alive connections. */
export interface Load {
  readonly host: string
  readonly port: number
  /** PEM of the CA when it is TLS. */
  readonly ca?: string
  /** The whole request, with its blank line. */
  readonly request: string
  /** A HEAD: the response has no body whatever its `Content-Length`. */
  readonly head: boolean
  readonly connections: number
  /** Responses in all. */
  readonly total: number
}

/** What the load process saw; `error` when something was not a whole 200. */
export interface LoadResult {
  readonly responses: number
  readonly bodyBytes: number
  readonly seconds: number
  /** CPU seconds of the load process: near `seconds`, it is the bottleneck. */
  readonly cpuSeconds: number
  readonly error?: string
}
