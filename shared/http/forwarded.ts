import type { IncomingMessage } from 'node:http'
import { BlockList, isIP, isIPv4 } from 'node:net'
import { addNetwork } from '../config/networks.ts'
import { recordOf, type TrustedProxies } from './request-record.ts'

/**
 * Makes the list of proxies.
 * @param networks addresses and networks (`10.0.0.0/8`)
 * @throws TypeError when one is neither
 */
export function createTrustedProxies(networks: readonly string[]): TrustedProxies {
  // Most servers have none, and ask at every request.
  if (networks.length === 0) return { includes: () => false }
  const list = new BlockList()
  for (const network of networks) addNetwork(list, network)
  return {
    includes(address) {
      const family = isIP(address)
      return family !== 0 && list.check(address, family === 4 ? 'ipv4' : 'ipv6')
    },
  }
}

/** Who sent a request, and how, as far as it can be believed. */
interface ClientOrigin {
  /** The client's IP address, without a zone or an IPv4-in-IPv6 prefix. */
  readonly address: string
  readonly scheme: 'http' | 'https'
  /** What the client typed as host, with a port where it typed one; not to be trusted for links. */
  readonly host: string | undefined
}

/** The client's IP address, behind trusted proxies too. */
export function clientAddressOf(request: IncomingMessage): string {
  return clientOrigin(request, recordOf(request).proxies).address
}

/**
 * Works out who the client is. Forwarding headers count only from a trusted proxy: the address is the rightmost
 * one in the chain that is not a proxy's, as everything left of it may be the client's invention. A request that
 * carries both `Forwarded` and `X-Forwarded-For`, and they differ, comes from a proxy that set one and let the
 * client's other through: then neither counts. [RFC 7239]
 */
export function clientOrigin(request: IncomingMessage, proxies: TrustedProxies): ClientOrigin {
  const record = recordOf(request)
  const peer = bareAddress(record.peer)
  const own: ClientOrigin = {
    address: peer,
    scheme: 'encrypted' in record.socket ? 'https' : 'http',
    host: request.headers.host,
  }
  if (!proxies.includes(peer)) return own
  const standard = parseForwarded(request.headers.forwarded)
  const customary = parseXForwarded(request)
  const address = agree(
    standard && clientOf(standard.addresses, proxies),
    customary && clientOf(customary.addresses, proxies),
  )
  const scheme = agree(standard?.scheme, customary?.scheme)
  return {
    address: address ?? peer,
    scheme: scheme === 'http' || scheme === 'https' ? scheme : own.scheme,
    host: agree(standard?.host, customary?.host) ?? own.host,
  }
}

interface Chain {
  /** From the client to the last proxy but one; undefined where an element is not an IP address. */
  readonly addresses: readonly (string | undefined)[]
  readonly scheme: string | undefined
  readonly host: string | undefined
}

/** The value that both say, or the only one says. */
function agree(one: string | undefined, other: string | undefined): string | undefined {
  if (one === undefined || other === undefined) return one ?? other
  return one === other ? one : undefined
}

/** The rightmost address that is not a proxy's; the leftmost if all are; none where a link of the chain is unreadable. */
function clientOf(addresses: Chain['addresses'], proxies: TrustedProxies): string | undefined {
  for (const address of addresses.toReversed()) {
    if (address === undefined) return undefined
    if (!proxies.includes(address)) return address
  }
  return addresses[0]
}

/** `Forwarded: for=192.0.2.43;proto=https;host=example.com, for="[2001:db8::1]:4711"` */
function parseForwarded(header: string | undefined): Chain | undefined {
  if (header === undefined) return undefined
  const elements = splitQuoted(header, ',').map((element) => {
    const pairs = splitQuoted(element, ';').map((pair) => {
      const mark = pair.indexOf('=')
      return [
        pair.slice(0, mark).trim().toLowerCase(),
        unquote(pair.slice(mark + 1).trim()),
      ] as const
    })
    return new Map(pairs)
  })
  return {
    addresses: elements.map((element) => parseNode(element.get('for') ?? '')),
    scheme: elements[0]?.get('proto')?.toLowerCase(),
    host: elements[0]?.get('host'),
  }
}

function parseXForwarded({ headers }: IncomingMessage): Chain | undefined {
  const addresses = listOf(headers['x-forwarded-for'])
  const scheme = listOf(headers['x-forwarded-proto'])[0]?.toLowerCase()
  const host = listOf(headers['x-forwarded-host'])[0]
  if (addresses.length === 0 && scheme === undefined && host === undefined) return undefined
  return { addresses: addresses.map(parseNode), scheme, host }
}

function listOf(header: string | string[] | undefined): readonly string[] {
  const text = Array.isArray(header) ? header.join(',') : (header ?? '')
  return text
    .split(',')
    .map((element) => element.trim())
    .filter((element) => element !== '')
}

/** An address that may be in brackets and have a port. */
function parseNode(text: string): string | undefined {
  const bracketed = /^\[([^\]]+)\](?::\d+)?$/.exec(text)?.[1]
  const withPort = /^([\d.]+):\d+$/.exec(text)?.[1]
  const address = bareAddress(bracketed ?? withPort ?? text)
  return isIP(address) === 0 ? undefined : address
}

function bareAddress(address: string): string {
  const unzoned = address.replace(/%.*$/, '')
  const mapped = unzoned.replace(/^::ffff:/i, '')
  return isIPv4(mapped) ? mapped : unzoned
}

function splitQuoted(text: string, separator: ',' | ';'): readonly string[] {
  return (
    text.match(
      separator === ',' ? /(?:"(?:\\.|[^"\\])*"|[^,"])+/g : /(?:"(?:\\.|[^"\\])*"|[^;"])+/g,
    ) ?? []
  )
}

function unquote(text: string): string {
  return text.startsWith('"') ? text.slice(1, -1).replace(/\\(.)/g, '$1') : text
}
