import {
  createProxyChoice,
  parseProxy,
  proxyProblem,
  type ChooseProxy,
} from '../../shared/http/proxy.ts'

/** Whom an edge may reach, and by which way: with what the environment says where the file says nothing. */
export interface OutboundOptions {
  readonly allow: readonly string[]
  /** For upstreams at https URLs, and for those at plain http ones. They may hold a password. */
  readonly proxy?: { readonly https?: string; readonly http?: string }
  readonly no_proxy: readonly string[]
}

/** What the file says. */
interface GivenOutbound {
  readonly allow: readonly string[]
  /** One for all. */
  readonly proxy?: string | undefined
  readonly no_proxy?: readonly string[] | undefined
}

/** What is left out is as for other programs; of two spellings the upper-case one wins, as in Go. */
export function outboundOf(
  { allow, proxy, no_proxy }: GivenOutbound,
  env: Readonly<Record<string, string | undefined>>,
): OutboundOptions {
  const said = (name: string) => env[name] || env[name.toLowerCase()] || undefined
  const [https, http] =
    proxy === undefined ? [said('HTTPS_PROXY'), said('HTTP_PROXY')] : [proxy, proxy]
  const proxies = { ...(https !== undefined && { https }), ...(http !== undefined && { http }) }
  return {
    allow,
    ...((https ?? http) !== undefined && { proxy: proxies }),
    no_proxy: no_proxy ?? (said('NO_PROXY') ?? '').split(/[,\s]+/).filter((word) => word !== ''),
  }
}

/** By which way the edge reaches somebody. */
export function proxyChoiceOf(outbound: OutboundOptions): ChooseProxy {
  return createProxyChoice({ ...proxiesOf(outbound), noProxy: outbound.no_proxy })
}

/**
 * The proxies that upstreams are reached through.
 * @throws Error with a one-line message; the file was checked when it was loaded, so a variable is wrong
 */
export function proxiesOf({ proxy = {} }: OutboundOptions): {
  readonly https: URL | undefined
  readonly http: URL | undefined
} {
  const read = (variable: string, written: string | undefined) => {
    const problem = written === undefined ? undefined : proxyProblem(written)
    if (problem !== undefined) throw new Error(`${variable} ${problem}`)
    return written === undefined ? undefined : parseProxy(written)
  }
  return { https: read('HTTPS_PROXY', proxy.https), http: read('HTTP_PROXY', proxy.http) }
}
