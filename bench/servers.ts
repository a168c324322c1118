/** A running server under measurement; the caller stops it. */
export interface Server {
  readonly name: string
  readonly origin: URL
  /** The root of the process tree whose CPU counts. */
  readonly pid: number
  /** PEM of its CA when it speaks TLS. */
  readonly ca?: string
  stop(): Promise<void>
}
