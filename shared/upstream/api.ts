import { HttpError, type HttpClient, type HttpResponse } from '../http/client.ts'
import type { RepositoryName } from '../oci/reference.ts'
import { SourceError } from '../stream/blob-source.ts'
import type { Authenticator } from './bearer.ts'
import type { UpstreamRequest } from './fetch.ts'
import { exchange, type Line } from './exchange.ts'
import { errorOfHttp } from './outcome.ts'
import type { RegistryEntry } from './registries.ts'
import { credentialOf, isEncoded } from './request.ts'

/** Asks for something small. */
export interface ApiCall {
  readonly method?: 'GET' | 'HEAD'
  readonly url: URL
  readonly accept: string
  readonly maxBytes: number
  readonly redirects?: number
  /** An entity tag: 304 says that what it names is still there. [RFC 9110 §13.1.2] */
  readonly ifNoneMatch?: string | undefined
  /** Undefined: of no repository, as the catalog. */
  readonly repository: RepositoryName | undefined
  readonly options: UpstreamRequest | undefined
}

/** @throws SourceError; every status but 401 is an answer */
export type Api = (
  call: ApiCall,
) => Promise<{ readonly answer: HttpResponse; readonly elsewhere: boolean }>

export interface ApiDeps {
  readonly entry: RegistryEntry
  readonly http: HttpClient
  readonly authenticator: Authenticator
  /** Sent to the upstream itself, besides those of a call. */
  readonly ownHeaders?: (() => Readonly<Record<string, string>>) | undefined
  /** Told of the upstream's own answers, whatever their status. */
  readonly onHeaders: (headers: HttpResponse['headers']) => void
}

/** Small requests to an upstream: manifests, lists, HEADs. */
export function createApi({ entry, http, authenticator, ownHeaders, onHeaders }: ApiDeps): Api {
  return async ({ method = 'GET', redirects = 0, options = {}, ...call }) => {
    const { signal } = options
    const line: Line<HttpResponse> = {
      async send(url, headers) {
        try {
          return await http.request(url, { method, headers, maxBytes: call.maxBytes, signal })
        } catch (error) {
          throw error instanceof HttpError ? errorOfHttp(entry.id, error) : error
        }
      },
      discard: () => undefined,
    }
    const asked = {
      url: call.url,
      access: { repository: call.repository, credential: credentialOf(entry, options) },
      headers: {
        accept: call.accept,
        ...(call.ifNoneMatch !== undefined && { 'if-none-match': call.ifNoneMatch }),
      },
      ownHeaders: { ...ownHeaders?.(), ...options.headers },
      redirects,
      signal,
    }
    const arrived = await exchange(asked, authenticator, line)
    const { status, headers } = arrived.answer
    if (!arrived.elsewhere) onHeaders(headers)
    if (status === 200 && isEncoded(headers['content-encoding']))
      throw new SourceError('broken', `${entry.id} encodes what must come as it is`)
    return arrived
  }
}
