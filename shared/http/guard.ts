import { lookup as systemLookup, type LookupAddress } from 'node:dns'
import { BlockList, isIP, isIPv4, type LookupFunction } from 'node:net'
import { networkInterfaces } from 'node:os'
import { LRUCache } from 'lru-cache'

/** What an address is, for deciding who may be dialled. */
export type AddressKind =
  'public' | 'private' | 'loopback' | 'link-local' | 'metadata' | 'unspecified' | 'special'

export interface GuardOptions {
  /** Written in configuration or the signed roster: dialled at whatever address their names have. */
  readonly configured: readonly URL[]
  /** Addresses and CIDRs, loopback and private ones, that users and far sides may name as well. */
  readonly allow?: readonly string[]
  /** Where this process listens: never dialled for others, whatever is allowed. */
  readonly ownPorts?: () => readonly number[]
  /** The system's, for tests. */
  readonly lookup?: typeof systemLookup
}

/** Decides at connect time, over the address that is dialled: a name that changes its mind gains nothing. */
export interface Guard {
  /** @throws ForbiddenAddressError unless this address may be dialled for this host and port */
  check(target: GuardTarget, address: string): void
  /**
   * For a name that a proxy resolves: refuses it when one of the addresses that this machine knows for it may not be
   * dialled. One that this machine cannot resolve is the proxy's to judge.
   * @throws ForbiddenAddressError
   */
  checkName(target: GuardTarget): Promise<void>
  /** For `net.connect`: resolves names, and gives out only addresses that may be dialled. */
  lookupFor(port: number): LookupFunction
}

export interface GuardTarget {
  readonly host: string
  readonly port: number
}

/** A connection that nobody configured and that would reach into our own network. */
export class ForbiddenAddressError extends Error {
  readonly code = 'ERR_FORBIDDEN_ADDRESS'

  constructor({ host, port }: GuardTarget, address: string, why: string) {
    const named = host === address ? host : `${host} (${address})`
    super(`${named} port ${port} may not be dialled: ${why}`)
    this.name = 'ForbiddenAddressError'
  }
}

/** A name that takes longer is one that this machine cannot resolve. */
const nameWaitMs = 2000

/** @throws Error on an entry of `allow` that is no address and no CIDR */
export function createGuard(options: GuardOptions): Guard {
  const configured = new Set(options.configured.map(originOf))
  const allowed = parseRanges(options.allow ?? [])
  const ownPorts = options.ownPorts ?? (() => [])
  const lookup = options.lookup ?? systemLookup
  const isConfigured = ({ host, port }: GuardTarget) =>
    configured.has(`${host.toLowerCase()}:${port}`)

  function check(target: GuardTarget, address: string): void {
    if (isConfigured(target)) return
    const plain = unwrapAddress(address)
    const kind = kindOf(plain)
    if (ownPorts().includes(target.port) && (kind === 'loopback' || isOwnAddress(plain)))
      throw new ForbiddenAddressError(target, address, 'it is a listener of this program')
    if (kind === 'public') return
    const canBeAllowed = kind === 'private' || kind === 'loopback'
    if (canBeAllowed && allowed.check(plain, isIPv4(plain) ? 'ipv4' : 'ipv6')) return
    const remedy = canBeAllowed ? '; outbound.allow can allow it' : ''
    throw new ForbiddenAddressError(target, address, `its address is ${kind}${remedy}`)
  }

  /** Kept for a while: behind a proxy there is often no resolver, and each look-up that waits for one holds a thread. */
  const known = new LRUCache<string, Promise<readonly LookupAddress[]>>({ max: 256, ttl: 30_000 })
  function addressesOf(host: string): Promise<readonly LookupAddress[]> {
    const before = known.get(host)
    if (before !== undefined) return before
    const asking = new Promise<readonly LookupAddress[]>((resolve) => {
      const late = setTimeout(() => resolve([]), nameWaitMs)
      lookup(host, { all: true }, (error, found) => {
        clearTimeout(late)
        resolve(error === null ? found : [])
      })
    })
    known.set(host, asking)
    return asking
  }

  return {
    check,
    async checkName(target) {
      if (isConfigured(target)) return
      for (const { address } of await addressesOf(target.host)) check(target, address)
    },
    lookupFor: (port) => (host, lookupOptions, answer) => {
      lookup(host, { ...lookupOptions, all: true }, (error, found) => {
        if (error !== null) return answer(error, '')
        const { good, refusal } = sift(found, (address) => check({ host, port }, address))
        const [first] = good
        if (first === undefined) return answer(refusal ?? new Error(`${host} has no address`), '')
        if (lookupOptions.all === true) answer(null, good)
        else answer(null, first.address, first.family)
      })
    },
  }
}

/**
 * What kind of address this is. IPv6 forms that stand for an IPv4 address count as that one.
 * [RFC 6890, RFC 4291, RFC 6052, RFC 3056]
 */
export function kindOf(address: string): AddressKind {
  const plain = unwrapAddress(address)
  const family = isIPv4(plain) ? 'ipv4' : 'ipv6'
  if (isIP(plain) === 0) return 'special'
  return kinds.find(([, ranges]) => ranges.check(plain, family))?.[0] ?? 'public'
}

/** The IPv4 address that an IPv6 one stands for (mapped, compatible, NAT64, 6to4), else the same. */
function unwrapAddress(address: string): string {
  const bare = address.replace(/%.*$/, '')
  const groups = parseIpv6(bare)
  if (groups === undefined) return bare
  const [first = 0, second = 0, third = 0] = groups
  const embedded = (at: number) => {
    const [high = 0, low = 0] = groups.slice(at)
    return [high >> 8, high & 255, low >> 8, low & 255].join('.')
  }
  const zeros = (from: number, to: number) => groups.slice(from, to).every((group) => group === 0)
  const tail = (groups[6] ?? 0) * 65536 + (groups[7] ?? 0)
  if (zeros(0, 5) && groups[5] === 0xffff) return embedded(6)
  if (zeros(0, 4) && groups[4] === 0xffff && groups[5] === 0) return embedded(6)
  if (zeros(0, 6) && tail > 1) return embedded(6)
  if (first === 0x64 && second === 0xff9b && (zeros(2, 6) || third === 1)) return embedded(6)
  if (first === 0x2002) return embedded(1)
  return bare
}

/** The eight groups of an IPv6 address; undefined when it is none. */
function parseIpv6(address: string): number[] | undefined {
  if (isIP(address) !== 6) return undefined
  const hex = address.replace(/(\d+)\.(\d+)\.(\d+)\.(\d+)$/, (_whole, ...bytes: string[]) => {
    const [a = 0, b = 0, c = 0, d = 0] = bytes.slice(0, 4).map(Number)
    return `${(a * 256 + b).toString(16)}:${(c * 256 + d).toString(16)}`
  })
  const read = (part: string) => (part === '' ? [] : part.split(':').map((g) => parseInt(g, 16)))
  const [head = '', tail] = hex.split('::')
  if (tail === undefined) return read(head)
  const [left, right] = [read(head), read(tail)]
  return [...left, ...new Array<number>(8 - left.length - right.length).fill(0), ...right]
}

function sift(found: readonly LookupAddress[], check: (address: string) => void) {
  const good: LookupAddress[] = []
  let refusal: Error | undefined
  for (const candidate of found) {
    try {
      check(candidate.address)
      good.push(candidate)
    } catch (error) {
      refusal = error as Error
    }
  }
  return { good, refusal }
}

function originOf(url: URL): string {
  return `${hostOf(url)}:${portOf(url)}`
}

/** A URL's host as it is dialled: without the brackets of IPv6. */
export function hostOf(url: URL): string {
  return url.hostname.replace(/^\[|\]$/g, '').toLowerCase()
}

/** A URL's port, also when it is its scheme's own. */
export function portOf(url: URL): number {
  if (url.port !== '') return Number(url.port)
  return url.protocol === 'https:' ? 443 : 80
}

function isOwnAddress(address: string): boolean {
  return Object.values(networkInterfaces())
    .flat()
    .some((own) => own?.address === address)
}

function parseRanges(entries: readonly string[]): BlockList {
  const ranges = new BlockList()
  for (const entry of entries) {
    const [, address = '', prefix] = /^([^/]+)(?:\/(\d{1,3}))?$/.exec(entry) ?? []
    const version = isIP(address)
    const bits = version === 4 ? 32 : 128
    const length = prefix === undefined ? bits : Number(prefix)
    if (version === 0 || length > bits)
      throw new Error(`${entry} is neither an address nor a range such as 10.0.0.0/8`)
    ranges.addSubnet(address, length, version === 4 ? 'ipv4' : 'ipv6')
  }
  return ranges
}

/** In this order: metadata services lie inside other ranges. */
const kinds: readonly (readonly [AddressKind, BlockList])[] = [
  // AWS, GCP, Azure and ECS; Alibaba; Oracle; Azure's wire server; AWS over IPv6.
  [
    'metadata',
    parseRanges([
      '169.254.169.254',
      '169.254.170.2',
      '100.100.100.200',
      '192.0.0.192',
      '168.63.129.16',
      'fd00:ec2::254',
    ]),
  ],
  ['unspecified', parseRanges(['0.0.0.0/8', '::/128'])],
  ['loopback', parseRanges(['127.0.0.0/8', '::1/128'])],
  ['link-local', parseRanges(['169.254.0.0/16', 'fe80::/10'])],
  [
    'private',
    parseRanges([
      '10.0.0.0/8',
      '172.16.0.0/12',
      '192.168.0.0/16',
      '100.64.0.0/10',
      '198.18.0.0/15',
      'fc00::/7',
      'fec0::/10',
    ]),
  ],
  // Multicast, broadcast, reserved, protocol assignments, documentation, discard, Teredo.
  [
    'special',
    parseRanges([
      '192.0.0.0/24',
      '192.0.2.0/24',
      '198.51.100.0/24',
      '203.0.113.0/24',
      '224.0.0.0/4',
      '240.0.0.0/4',
      'ff00::/8',
      '100::/64',
      '2001::/32',
      '2001:db8::/32',
    ]),
  ],
]
