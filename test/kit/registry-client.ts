import { Agent, request as sendRequest, type IncomingHttpHeaders } from 'node:http'
import { Agent as TlsAgent, request as sendTlsRequest } from 'node:https'
import type { Readable } from 'node:stream'

/** An answer, read whole. */
export interface Answer {
  readonly status: number
  readonly headers: IncomingHttpHeaders
  readonly body: Buffer
  /** The body as JSON. */
  json(): unknown
  /** The codes of an error body. */
  codes(): readonly string[]
}

export interface RequestOptions {
  readonly headers?: Readonly<Record<string, string | readonly string[]>>
  /** A stream is sent chunked; a Buffer with Content-Length unless `chunked`. */
  readonly body?: Buffer | Readable
  readonly chunked?: boolean
  readonly query?: Readonly<Record<string, string | readonly string[]>>
}

export interface Credentials {
  readonly username: string
  readonly password: string
}

/** Talks to a registry as plainly as possible: paths go out as they are given. */
export interface RegistryClient {
  readonly baseUrl: URL
  request(method: string, path: string, options?: RequestOptions): Promise<Answer>
  close(): void
}

export interface ClientOptions {
  readonly baseUrl: URL | string
  /** undefined: anonymous, with a token all the same where one is asked for. */
  readonly credentials?: Credentials | undefined
  /** How credentials are sent: as they are, or by a token from the challenge's realm. */
  readonly scheme?: 'basic' | 'bearer' | 'none'
  /** PEM of the CA of an https URL. */
  readonly ca?: string
}

/** Makes a client; the caller closes it. */
export function createRegistryClient(options: ClientOptions): RegistryClient {
  const baseUrl = new URL(options.baseUrl)
  const agent =
    baseUrl.protocol === 'https:'
      ? new TlsAgent({ keepAlive: true, ca: options.ca })
      : new Agent({ keepAlive: true })
  const tokens = new Map<string, string>()
  const { credentials, scheme = credentials === undefined ? 'none' : 'basic' } = options
  const basic = credentials && `Basic ${base64(`${credentials.username}:${credentials.password}`)}`

  const send = (method: string, path: string, request: RequestOptions, authorization?: string) =>
    exchange(baseUrl, { method, path, request, authorization, agent })

  return {
    baseUrl,
    async request(method, path, request = {}) {
      if (scheme !== 'bearer')
        return send(method, path, request, scheme === 'basic' ? basic : undefined)
      const key = scopeKey(method, path)
      const first = await send(method, path, request, tokens.get(key))
      if (first.status !== 401) return first
      const challenge = first.headers['www-authenticate'] ?? ''
      const token = await fetchToken(challenge, { agent, authorization: basic })
      if (token === undefined) return first
      tokens.set(key, `Bearer ${token}`)
      return send(method, path, request, `Bearer ${token}`)
    },
    close: () => agent.destroy(),
  }
}

function scopeKey(method: string, path: string): string {
  const repository = /^\/v2\/(.+?)\/(?:blobs|manifests|tags|referrers)\//.exec(path)?.[1] ?? ''
  const right =
    method === 'GET' || method === 'HEAD' ? 'pull' : method === 'DELETE' ? 'delete' : 'push'
  return `${repository} ${right}`
}

async function fetchToken(
  challenge: string,
  { agent, authorization }: { agent: Agent; authorization: string | undefined },
): Promise<string | undefined> {
  const parameters = new Map(
    [...challenge.matchAll(/([a-z]+)="([^"]*)"/g)].map(([, name, value]) => [name, value]),
  )
  const realm = parameters.get('realm')
  if (realm === undefined) return undefined
  const url = new URL(realm)
  for (const name of ['service', 'scope']) {
    const value = parameters.get(name)
    if (value !== undefined) url.searchParams.set(name, value)
  }
  const answer = await exchange(url, {
    method: 'GET',
    path: url.pathname + url.search,
    request: {},
    authorization,
    agent,
  })
  if (answer.status !== 200) return undefined
  return (answer.json() as { token: string }).token
}

interface Exchange {
  readonly method: string
  readonly path: string
  readonly request: RequestOptions
  readonly authorization: string | undefined
  readonly agent: Agent
}

function exchange(
  baseUrl: URL,
  { method, path, request, authorization, agent }: Exchange,
): Promise<Answer> {
  const { headers = {}, body, chunked = false, query } = request
  return new Promise((resolve, reject) => {
    const outgoing = (baseUrl.protocol === 'https:' ? sendTlsRequest : sendRequest)({
      host: baseUrl.hostname,
      port: baseUrl.port,
      method,
      path: query === undefined ? path : withQuery(path, query),
      agent,
      headers: {
        ...(authorization !== undefined && { Authorization: authorization }),
        ...lengthHeader(method, body, chunked),
        ...(headers as Record<string, string>),
      },
    })
    outgoing.once('error', reject)
    outgoing.once('response', (incoming) => {
      const chunks: Buffer[] = []
      incoming.on('data', (chunk: Buffer) => chunks.push(chunk))
      incoming.once('error', reject)
      incoming.once('end', () => {
        resolve(createAnswer(incoming.statusCode ?? 0, incoming.headers, Buffer.concat(chunks)))
      })
    })
    if (body === undefined || Buffer.isBuffer(body)) outgoing.end(body)
    else body.once('error', (error) => outgoing.destroy(error)).pipe(outgoing)
  })
}

function lengthHeader(method: string, body: RequestOptions['body'], chunked: boolean) {
  if (body === undefined) {
    return method === 'GET' || method === 'HEAD' || chunked ? {} : { 'Content-Length': '0' }
  }
  if (chunked || !Buffer.isBuffer(body)) return { 'Transfer-Encoding': 'chunked' }
  return { 'Content-Length': String(body.length) }
}

function withQuery(path: string, query: NonNullable<RequestOptions['query']>): string {
  const parameters = new URLSearchParams()
  for (const [name, values] of Object.entries(query)) {
    for (const value of typeof values === 'string' ? [values] : values)
      parameters.append(name, value)
  }
  return `${path}${path.includes('?') ? '&' : '?'}${parameters.toString()}`
}

function createAnswer(status: number, headers: IncomingHttpHeaders, body: Buffer): Answer {
  const json = (): unknown => JSON.parse(body.toString('utf8'))
  return {
    status,
    headers,
    body,
    json,
    codes: () => (json() as { errors: { code: string }[] }).errors.map((entry) => entry.code),
  }
}

function base64(text: string): string {
  return Buffer.from(text).toString('base64')
}
