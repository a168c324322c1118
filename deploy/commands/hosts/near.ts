import type { Endpoint } from '../../../shared/clients/mirroring.ts'
import type { ClientEdge } from '../../../shared/discovery/client-edges.ts'
import type { Member } from '../../../shared/discovery/members.ts'
import { createNearness } from '../../../shared/site/nearness.ts'
import { chooseNearest } from '../../../shared/site/nearest.ts'
import type { Pings } from './pings.ts'

/** An edge of which a client may be told; `url` is what it says of itself. */
export interface KnownEdge extends Pick<ClientEdge, 'id' | 'url' | 'site'> {
  readonly endpoint: Endpoint
}

/** Which edges a client of this machine is told of. */
export interface Near {
  /** Looks at who answers, and how soon. @returns the nearest, none when nobody ever answered */
  look(): Promise<readonly Endpoint[]>
}

export interface NearDeps {
  /** The edges that count, as they are now. */
  readonly edges: () => Promise<readonly KnownEdge[]>
  /** Those that Consul says are healthy; none without it. */
  readonly members: () => readonly Member[]
  readonly pings: Pick<Pings, 'ping'>
  readonly site: string | undefined
  readonly machine: string
  /** Milliseconds, monotonic. */
  readonly now?: () => number
}

interface Placed extends KnownEdge {
  /** As Consul's coordinates say. */
  readonly estimateMs: number | undefined
}

/** The nearest, then the next. */
const told = 2
/** Of those that are known, so many of the nearest are asked at each look. */
const asked = 8
/** At once. */
const together = 32
/** One silence may be an accident. */
const failuresToLeave = 2

/** Remembers what it measured from look to look, and stays with its choice while nobody is much nearer. */
export function createNear(deps: NearDeps): Near {
  const { now = () => performance.now(), site, machine } = deps
  const nearness = createNearness({ site, now })
  const failures = new Map<string, number>()
  let chosen: readonly Placed[] = []

  /** @returns whether it answers */
  async function ask({ id, endpoint, estimateMs }: Placed): Promise<boolean> {
    const ms = await deps.pings.ping(endpoint.url)
    if (ms === undefined) {
      // One that never answered needs no second chance.
      failures.set(id, (failures.get(id) ?? failuresToLeave) + 1)
      return false
    }
    failures.set(id, 0)
    // Where Consul knows how far it is, that counts: the two are not measured alike.
    if (estimateMs === undefined) nearness.measured(id, ms)
    return true
  }

  async function askAll(edges: readonly Placed[]): Promise<void> {
    for (let at = 0; at < edges.length; at += together)
      await Promise.all(edges.slice(at, at + together).map(ask))
  }

  const isThere = ({ id }: Placed) => (failures.get(id) ?? 0) < failuresToLeave

  /** Those that count now, the nearest first. */
  async function place(): Promise<readonly Placed[]> {
    const edges = await deps.edges()
    const estimates = new Map(deps.members().map(({ id, estimateMs }) => [id, estimateMs]))
    const isListed = ({ id }: KnownEdge) => estimates.has(id)
    // Consul orders those that it knows; where it knows nobody, all count.
    const counting = edges.some(isListed) ? edges.filter(isListed) : edges
    const ordered = nearness.order(
      counting.map((edge) => ({ ...edge, estimateMs: estimates.get(edge.id) })),
    )
    // Two that say to be at one place are one: a client's file with a host twice would be none.
    const urls = new Set<string>()
    return ordered.filter(({ endpoint: { url } }) => !urls.has(url) && urls.add(url))
  }

  /** Chooses, and asks whoever was chosen, until all of them answer. */
  async function choose(
    placed: readonly Placed[],
    isAsked: Set<string>,
  ): Promise<readonly Placed[]> {
    for (;;) {
      const candidates = placed.filter(isThere)
      const before = chosen.map(({ id }) => id)
      const ids = chooseNearest(candidates, before, { nearness, machine, most: told })
      const picked = ids.flatMap((id) => candidates.filter((edge) => edge.id === id))
      const next = picked.filter(({ id }) => !isAsked.has(id))
      if (next.length === 0) return picked
      for (const { id } of next) isAsked.add(id)
      await askAll(next)
    }
  }

  return {
    async look() {
      const placed = await place()
      const isMeasured = (edge: Placed) => edge.estimateMs === undefined
      const unknown = placed.filter((edge) => isMeasured(edge) && !failures.has(edge.id))
      await askAll(unknown)
      // Again those whose distance only we know; and the silent ones, which would never come back.
      const again = placed.filter((edge) => !unknown.includes(edge))
      const due = [
        ...again.filter((edge) => isThere(edge) && isMeasured(edge)).slice(0, asked),
        ...again.filter((edge) => !isThere(edge)).slice(0, asked),
      ]
      await askAll(due)
      const isAsked = new Set([...unknown, ...due].map(({ id }) => id))
      const found = await choose(placed, isAsked)
      // Where nobody answers, it is more likely we that are cut off.
      if (found.length > 0) chosen = found
      return chosen.map(({ endpoint }) => endpoint)
    },
  }
}
