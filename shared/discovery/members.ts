import { isRecord } from '../config/record.ts'
import type { Logger } from '../observability/log.ts'
import { distanceMs, type Candidate, type Coordinate } from '../site/nearness.ts'
import { realPace, startBlockingQuery, type Pace } from './blocking-query.ts'
import { largestList, type ConsulClient } from './consul-client.ts'
import { edgeServiceName, isEdgeId, isPlace, isServiceUrl, isVersion } from './service.ts'

/** An edge that Consul says is healthy. That it may be asked is for the roster to say. */
export interface Member extends Candidate {
  /** The edge's id. */
  readonly id: string
  /** An origin: where clients reach it. */
  readonly url: string
  readonly site: string | undefined
  readonly region: string | undefined
  readonly version: string | undefined
  /** The node of Consul that it is on. */
  readonly node: string
}

/** Why an entry does not count. */
export type MemberRefusal =
  | 'malformed'
  | 'control-characters'
  | 'bad-id'
  | 'bad-url'
  | 'bad-place'
  | 'bad-version'
  | 'too-many'
  | 'not-in-roster'
  | 'other-url'
  | 'ambiguous'

/** What a catalogue says, before the roster is asked. */
export interface ParsedMembers {
  /** By id, each of which is there once. */
  readonly members: readonly Member[]
  readonly refused: readonly RefusedMember[]
}

export interface RefusedMember {
  readonly reason: MemberRefusal
  /** The service's id if it is one that can be shown. */
  readonly id: string | undefined
}

/** More of one service are not read. */
const mostEntries = 10_000

/**
 * Reads what `/v1/health/service/outport-edge` answers: each entry by itself, and strictly, because whoever may write to Consul
 * may write anything.
 * @throws RangeError when it is no list at all
 */
export function parseMembers(body: unknown): ParsedMembers {
  if (!Array.isArray(body)) throw new RangeError('Consul answers with no list of services')
  const entries = body as readonly unknown[]
  const refused: RefusedMember[] = []
  const byId = new Map<string, Member[]>()
  for (const entry of entries.slice(0, mostEntries)) {
    const member = parseMember(entry)
    if (typeof member === 'string') refused.push({ reason: member, id: showableId(entry) })
    else byId.set(member.id, [...(byId.get(member.id) ?? []), member])
  }
  if (entries.length > mostEntries) refused.push({ reason: 'too-many', id: undefined })
  const members: Member[] = []
  for (const [id, same] of [...byId].sort(([one], [other]) => (one < other ? -1 : 1))) {
    // One of them lies, or has moved; which one, Consul does not know.
    const [first, ...others] = same.toSorted((one, other) => (one.node < other.node ? -1 : 1))
    if (first === undefined) continue
    if (others.every(({ url }) => url === first.url)) members.push(first)
    else refused.push({ reason: 'ambiguous', id })
  }
  return { members, refused }
}

function parseMember(entry: unknown): Member | MemberRefusal {
  if (!isRecord(entry) || !isRecord(entry['Node']) || !isRecord(entry['Service']))
    return 'malformed'
  const { Node: node } = entry['Node']
  const { Meta: meta } = entry['Service']
  if (typeof node !== 'string' || !isRecord(meta)) return 'malformed'
  const written = Object.entries(meta)
  if (!written.every(([, value]) => typeof value === 'string')) return 'malformed'
  if (hasControls(node) || written.some((pair) => pair.some((text) => hasControls(String(text)))))
    return 'control-characters'
  const { id, url, site, region, version } = meta as Readonly<Record<string, string>>
  if (id === undefined || !isEdgeId(id)) return 'bad-id'
  if (url === undefined || !isServiceUrl(url)) return 'bad-url'
  const [inSite, inRegion] = [site || undefined, region || undefined]
  if (![inSite, inRegion].every((place) => place === undefined || isPlace(place)))
    return 'bad-place'
  const ofVersion = version || undefined
  if (ofVersion !== undefined && !isVersion(ofVersion)) return 'bad-version'
  return { id, url, site: inSite, region: inRegion, version: ofVersion, node }
}

/** Of any script: also what turns text around, and what cannot be seen. */
function hasControls(text: string): boolean {
  return /[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/u.test(text)
}

function showableId(entry: unknown): string | undefined {
  const service = isRecord(entry) ? entry['Service'] : undefined
  const id = isRecord(service) ? service['ID'] : undefined
  return typeof id === 'string' && /^[\w.:-]{1,128}$/.test(id) ? id : undefined
}

export interface MembersOptions {
  readonly client: ConsulClient
  /** The ids of the edges that the primary's signed roster has, and that take requests: not suspended, nor leaving. Asked each time. */
  readonly roster: () => readonly string[]
  /** The URL that the roster has of an edge, where it has one: an entry with another one does not count. */
  readonly urlOf?: (edgeId: string) => string | undefined
  readonly log: Logger
  /** Called after Consul named other members than before; `list` says whom. */
  readonly onChange?: () => void
  readonly pace?: Pace
}

/** The members that Consul and the roster both name. */
export interface Members {
  /**
   * By id, with the round-trip time that Consul's coordinates say; what Consul said last, however long ago, and what the roster
   * says now.
   */
  list(): readonly Member[]
  /** Ends when Consul has said once who is there, and whether or not where; and when this is closed. */
  readonly ready: Promise<void>
  close(): Promise<void>
}

/** Coordinates move slowly, and nearness is no matter of seconds. */
const coordinatesMs = 60_000
/** One line for each reason in so long, whatever comes and goes. */
const quietMs = 3_600_000

/** Watches the edges that are healthy as Consul sees them. Consul away changes nothing; the caller closes it. */
export function watchMembers(options: MembersOptions): Members {
  const { client, roster, urlOf, log, onChange, pace = realPace } = options
  const report = createRefusals(log, pace.now)
  const query = startBlockingQuery({
    read: ({ query: blocking, ...rest }) =>
      client.read(`/v1/health/service/${edgeServiceName}`, {
        query: { passing: '1', ...blocking },
        maxBytes: largestList,
        ...rest,
      }),
    select(body) {
      const { members, refused } = parseMembers(body)
      report(refused)
      return members
    },
    ...(onChange !== undefined && { onValue: onChange }),
    onState: (err) => {
      if (err === undefined) log.info('Consul answers again')
      else log.warn({ err }, 'Consul does not answer: what it said last goes on being used')
    },
    pace,
  })
  const places = watchPlaces(client, { log, pace })

  return {
    ready: Promise.all([query.first, places.first]).then(() => undefined),
    list() {
      const inRoster = new Set(roster())
      const refused: RefusedMember[] = []
      const members = (query.latest() ?? []).filter(({ id, url }) => {
        const known = inRoster.has(id) ? (urlOf?.(id) ?? url) : undefined
        if (known === url) return true
        refused.push({ reason: known === undefined ? 'not-in-roster' : 'other-url', id })
        return false
      })
      report(refused)
      return members.map((member) => ({ ...member, estimateMs: places.distanceMs(member.node) }))
    },
    async close() {
      await Promise.all([query.close(), places.close()])
    },
  }
}

function createRefusals(
  log: Logger,
  now: () => number,
): (refused: readonly RefusedMember[]) => void {
  const loggedAt = new Map<MemberRefusal, number>()
  return (refused) => {
    for (const [reason, all] of Map.groupBy(refused, (one) => one.reason)) {
      const before = loggedAt.get(reason)
      if (before !== undefined && now() - before < quietMs) continue
      loggedAt.set(reason, now())
      log.warn(
        { reason, service: all[0]?.id, entries: all.length },
        'entries in Consul that do not count',
      )
    }
  }
}

/** How far the nodes of Consul are from the one whose agent we ask. */
function watchPlaces(
  client: ConsulClient,
  { log, pace }: { readonly log: Logger; readonly pace: Pace },
) {
  const closing = new AbortController()
  let own: string | undefined
  let isElsewhere = false
  let coordinates: ReadonlyMap<string, Coordinate> = new Map()
  const first = Promise.withResolvers<void>()

  async function look(): Promise<void> {
    try {
      if (own === undefined) {
        const { node, datacenter } = await client.self(closing.signal)
        own = node
        // Coordinates of two datacenters do not compare.
        isElsewhere = client.datacenter !== undefined && client.datacenter !== datacenter
      }
      if (!isElsewhere) coordinates = await client.coordinates(closing.signal)
    } catch (err) {
      if (!closing.signal.aborted) log.debug({ err }, 'Consul does not say where its nodes are')
    }
  }

  async function run(): Promise<void> {
    while (!closing.signal.aborted) {
      await look()
      first.resolve()
      await pace.delay(coordinatesMs * (1 + pace.random() / 10), closing.signal)
    }
  }

  const running = run()
  return {
    first: first.promise,
    distanceMs(node: string): number | undefined {
      const [here, there] = [coordinates.get(own ?? ''), coordinates.get(node)]
      return here && there && distanceMs(here, there)
    },
    async close() {
      closing.abort()
      await running
    },
  }
}
