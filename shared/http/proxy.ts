import { request as httpRequest } from 'node:http'
import { request as httpsRequest } from 'node:https'
import { BlockList, isIP, isIPv6, type Socket } from 'node:net'
import { domainToASCII } from 'node:url'
import { addNetwork } from '../config/networks.ts'
import { hostOf, kindOf, portOf, type GuardTarget } from './guard.ts'

/** Which connections go through a proxy, as the variables HTTPS_PROXY, HTTP_PROXY and NO_PROXY say it. */
export interface ProxyRules {
  /** For connections that will speak https, and for those in clear. */
  readonly https?: URL | undefined
  readonly http?: URL | undefined
  readonly noProxy: readonly string[]
}

/** @param protocol `https:` or `http:`, what will be spoken to the target */
export type ChooseProxy = (protocol: string, target: GuardTarget) => URL | undefined

/** There is no tunnel through the proxy. The message names its host, never its credentials. */
export class ProxyError extends Error {
  readonly code: 'ERR_PROXY' | 'ETIMEDOUT'

  constructor(
    proxy: URL,
    what: string,
    options: ErrorOptions & { readonly isTimeout?: true } = {},
  ) {
    super(`the proxy ${proxy.host} ${what}`, options)
    this.name = 'ProxyError'
    this.code = options.isTimeout === true ? 'ETIMEDOUT' : 'ERR_PROXY'
  }
}

/**
 * Reads a proxy's URL; `proxy.example:3128` is one of http.
 * @throws Error that says what it must be, and nothing of what it is: that may hold a password
 */
export function parseProxy(written: string): URL {
  const url = URL.parse(written.includes('://') ? written : `http://${written}`)
  if (url === null || (url.protocol !== 'http:' && url.protocol !== 'https:'))
    throw new Error('must be the URL of an http or https proxy, http://proxy.example:3128')
  if (url.pathname !== '/' || url.search !== '' || url.hash !== '')
    throw new Error('must not have a path, query or fragment')
  try {
    credentialsOf(url)
  } catch {
    throw new Error('must have a % of its user or password written as %25')
  }
  return url
}

/** What is wrong with a proxy's URL; it is not said itself. */
export function proxyProblem(proxy: string): string | undefined {
  try {
    parseProxy(proxy)
    return undefined
  } catch (error) {
    return error instanceof Error ? error.message : String(error)
  }
}

/**
 * Decides who is reached through a proxy: not loopback, and not what `noProxy` names. Entries that mean nothing are
 * passed over. [golang.org/x/net/http/httpproxy, Config.NoProxy]
 */
export function createProxyChoice({ https, http, noProxy }: ProxyRules): ChooseProxy {
  const exempt = noProxy.map(parseExemption).filter((matches) => matches !== undefined)
  return (protocol, { host: written, port }) => {
    const proxy = protocol === 'https:' ? https : http
    const host = written.toLowerCase()
    if (proxy === undefined || host === 'localhost' || kindOf(host) === 'loopback') return undefined
    return exempt.some((matches) => matches({ host, port })) ? undefined : proxy
  }
}

/** Whether an element of a no_proxy list means anything. */
export function isExemption(entry: string): boolean {
  return parseExemption(entry) !== undefined
}

type Exemption = (target: GuardTarget) => boolean

/** `*`, a network, or an address or domain with or without a port; undefined for anything else. */
function parseExemption(entry: string): Exemption | undefined {
  if (entry === '*') return () => true
  if (entry.includes('/')) return parseAddresses(entry)
  const [, inBrackets, plain, onPort] =
    /^(?:\[([^\]]*)\]|([^:]*))(?::(\d{1,5}))?$/.exec(entry) ?? []
  const name = inBrackets ?? plain ?? entry
  const matches = isIP(name) === 0 ? parseDomain(name) : parseAddresses(name)
  if (matches === undefined || onPort === undefined) return matches
  return (target) => target.port === Number(onPort) && matches(target)
}

function parseAddresses(written: string): Exemption | undefined {
  const addresses = new BlockList()
  try {
    addNetwork(addresses, written)
  } catch {
    return undefined
  }
  return ({ host }) => isIP(host) !== 0 && addresses.check(host, isIPv6(host) ? 'ipv6' : 'ipv4')
}

/** `a.example` is itself and what is below, `.a.example` and `*.a.example` only what is below. */
function parseDomain(written: string): Exemption | undefined {
  const [, dot = '', name = ''] = /^(\*?\.)?([^*]+)$/.exec(written) ?? []
  const domain = domainToASCII(name)
  if (!/^[\w-]+(?:\.[\w-]+)*$/.test(domain)) return undefined
  return ({ host }) => host.endsWith(`.${domain}`) || (dot === '' && host === domain)
}

/**
 * Has a proxy connect to a target: what is written to the socket arrives there. The caller closes it.
 * [RFC 9110 §9.3.6]
 * @param timeoutMs for the connection to the proxy and its answer, together
 * @throws ProxyError
 */
export function openTunnel(
  proxy: URL,
  { host, port }: GuardTarget,
  { timeoutMs }: { readonly timeoutMs: number },
): Promise<Socket> {
  const authority = `${isIPv6(host) ? `[${host}]` : host}:${port}`
  const proxyHost = hostOf(proxy)
  const asking = (proxy.protocol === 'https:' ? httpsRequest : httpRequest)({
    method: 'CONNECT',
    host: proxyHost,
    port: portOf(proxy),
    path: authority,
    headers: { host: authority, 'user-agent': 'outport', ...authorizationOf(proxy) },
    agent: false,
    // Else the certificate would have to be for the Host that is asked for.
    servername: isIP(proxyHost) === 0 ? proxyHost : '',
  })
  return new Promise((resolve, reject) => {
    const late = setTimeout(() => {
      const what = `did not connect to ${authority} in ${timeoutMs} ms`
      asking.destroy(new ProxyError(proxy, what, { isTimeout: true }))
    }, timeoutMs)
    asking.once('error', (cause) => {
      clearTimeout(late)
      const failed = cause instanceof ProxyError
      reject(failed ? cause : new ProxyError(proxy, `fails: ${cause.message}`, { cause }))
    })
    // Whatever the status is; what Node gives out is the socket of a connection.
    asking.once('connect', ({ statusCode = 0 }, socket: Socket, early) => {
      clearTimeout(late)
      // Whoever uses it listens too; nobody does before.
      socket.on('error', () => undefined)
      const refusal =
        statusCode < 200 || statusCode > 299
          ? `answers ${statusCode} to CONNECT ${authority}`
          : // Neither TLS nor HTTP has a server that speaks first.
            early.length > 0
            ? `sends bytes of its own on the connection to ${authority}`
            : undefined
      if (refusal === undefined) return resolve(socket.setNoDelay(true).setKeepAlive(true, 60_000))
      socket.destroy()
      reject(new ProxyError(proxy, refusal))
    })
    asking.end()
  })
}

function authorizationOf(proxy: URL): Readonly<Record<string, string>> {
  const credentials = credentialsOf(proxy)
  if (credentials === ':') return {}
  return { 'proxy-authorization': `Basic ${Buffer.from(credentials).toString('base64')}` }
}

/** @throws URIError on a % that encodes nothing */
function credentialsOf({ username, password }: URL): string {
  return `${decodeURIComponent(username)}:${decodeURIComponent(password)}`
}
