import { outboundOf, proxyChoiceOf, type OutboundOptions } from '../edge/upstreams/outbound.ts'
import { checkOrigin, isLoopback } from '../shared/config/origins.ts'
import {
  createHttpClient,
  HttpError,
  type HttpClient,
  type HttpRequest,
  type HttpResponse,
} from '../shared/http/client.ts'
import { createGuard } from '../shared/http/guard.ts'
import { parseErrors } from '../shared/oci/errors.ts'
import { parseCertificate } from '../shared/trust/key-pair.ts'
import { readNeeded } from './commands/certs/folder.ts'
import { UsageError } from './command-line.ts'
import { onOneLine } from './one-line.ts'
import { StartError } from './start-errors.ts'

/** How long a primary may take for an answer. */
const answerMs = 30_000

/**
 * The URL of a primary to which secrets will go.
 * @param what it is called in the messages: `--primary`
 * @throws UsageError when it is none, or plain http to another machine that nobody allowed
 */
export function parsePrimaryUrl(
  text: string,
  { what, insecureHttp }: { readonly what: string; readonly insecureHttp: boolean },
): URL {
  checkOrigin(text, what, (at, problem) => {
    throw new UsageError(`${at} ${problem}`)
  })
  const url = new URL(text)
  if (url.protocol === 'http:' && !isLoopback(url.hostname) && !insecureHttp) {
    throw new UsageError(
      `${url.origin} is plain http, and who is on the way would read the secret: use https, or allow it with --insecure-http`,
    )
  }
  return url
}

/**
 * The PEM of `--ca`.
 * @throws StartError when there is no such file, KeyPairError when it holds no certificate
 */
export async function readPrimaryCa(file: string | undefined): Promise<string | undefined> {
  if (file === undefined) return undefined
  const pem = await readNeeded(file, "name the CA of the primary's certificate with --ca")
  parseCertificate({ name: file, pem })
  return pem
}

/** A client for one primary and nobody else; the caller closes it. */
export interface PrimaryClient {
  /** @throws StartError when there is no answer; every status is one */
  ask(path: string, request?: HttpRequest): Promise<HttpResponse>
  close(): void
}

/**
 * Makes a client for a primary.
 * @param outbound by which way it is reached; as the environment's proxies say, without
 */
export function createPrimaryClient({
  url,
  ca,
  outbound = outboundOf({ allow: [] }, process.env),
}: {
  readonly url: URL
  readonly ca: string | undefined
  readonly outbound?: OutboundOptions
}): PrimaryClient {
  const http: HttpClient = createHttpClient({
    guard: createGuard({ configured: [url] }),
    ca,
    ownOrigin: url,
    chooseProxy: proxyChoiceOf(outbound),
    headersTimeoutMs: answerMs,
    stallMs: answerMs,
  })
  return {
    async ask(path, request) {
      try {
        return await http.request(new URL(path, url), request)
      } catch (error) {
        if (error instanceof HttpError) throw noAnswer(url, error)
        throw error
      }
    },
    close: () => http.close(),
  }
}

/** What a refusal of the primary says, or undefined. */
export function messageOf({ body }: HttpResponse): string | undefined {
  const message = parseErrors(body.toString('utf8'))[0]?.message
  return message === undefined || message === '' ? undefined : onOneLine(message)
}

/** How long the primary wants to be left alone, in words. */
export function waitOf({ headers }: HttpResponse): string {
  const seconds = headers['retry-after'] ?? ''
  return /^\d{1,6}$/.test(seconds) ? `in ${seconds} s` : 'in a minute'
}

/** Where a primary that was not meant wants to lead: its origin alone, since the rest may hold anything. */
export function redirectOf(url: URL, { headers }: HttpResponse): string {
  const target = URL.parse(headers['location'] ?? '', url.href)
  return target === null || target.origin === 'null' ? 'elsewhere' : `to ${target.origin}`
}

function noAnswer(url: URL, cause: HttpError): StartError {
  const reasons: Record<HttpError['code'], string> = {
    tls: `the certificate of ${url.host} is not trusted here: name its CA with --ca FILE, and use a host name that the certificate is for (${onOneLine(cause.message)})`,
    timeout: `${url.host} does not answer: check the URL, the network, and that the primary runs (${onOneLine(cause.message)})`,
    network: `cannot reach ${url.host}: check the URL, the network, and that the primary runs (${onOneLine(cause.message)})`,
    forbidden: onOneLine(cause.message),
    'too-large': `${url.host} is no Outport primary: its answer is too long`,
  }
  return new StartError(reasons[cause.code], { cause })
}
