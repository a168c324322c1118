import type { Digest } from '../../shared/oci/digest.ts'
import type { Origin } from './cache-index.ts'
import { createGdsf, type Gdsf, type GdsfClock, type HeldBlob } from './gdsf.ts'

/** What one owner's blobs may take of the cache. */
export interface Share {
  /** As `ownerOf` writes it. */
  readonly owner: string
  /** Of the capacity, above 0 and up to 1. */
  readonly part: number
}

/** Whose a blob is: an upstream's, or one project's of the primary. */
export function ownerOf({ upstream, project }: Pick<Origin, 'upstream' | 'project'>): string {
  return project === undefined ? upstream : `${upstream}!${project}`
}

/** What pinned blobs may take together, of the capacity: the rest is for all others, and for what is on its way. */
export const pinnedPart = 0.8

/**
 * The order of going, where some owners have a share: who is above it loses the lowest of its own, whatever that would be
 * worth elsewhere; else the lowest of all goes. A project's share is its own, not of its upstream's. What is pinned counts
 * in no owner's share, and stays, as long as all that is pinned stays below a share of its own.
 */
export interface SharedGdsf extends Omit<
  Gdsf,
  'add' | 'giveUp' | 'lowest' | 'has' | 'bytes' | 'take' | 'put'
> {
  add(
    digest: Digest,
    blob: Parameters<Gdsf['add']>[1] & { readonly owner: string | undefined },
  ): ReturnType<Gdsf['add']>
  /** @param from `shares`: only of who is above its share */
  giveUp(
    now: number,
    isKept: (digest: Digest) => boolean,
    from: { readonly capacityBytes: number; readonly only: 'shares' | undefined },
  ): ReturnType<Gdsf['giveUp']>
  /** Of which blobs it holds from now on that they are pinned, whether they are here yet or not. @param ownerOf whose share another counts in again */
  setPins(pins: ReadonlySet<Digest>, ownerOf: (digest: Digest) => string | undefined): void
  /** Of what is pinned, and here. */
  readonly pinnedBytes: number
  /** Whether an owner has more than its share. */
  isOver(capacityBytes: number): boolean
}

interface Part {
  readonly gdsf: Gdsf
  /** Infinity: no share. */
  readonly part: number
}

export function createSharedGdsf(shares: readonly Share[]): SharedGdsf {
  const clock: GdsfClock = { age: undefined }
  const rest: Part = { gdsf: createGdsf(clock), part: Infinity }
  const owned = new Map<string, Part>(
    shares.map(({ owner, part }) => [owner, { gdsf: createGdsf(clock), part }]),
  )
  const pinned: Part = { gdsf: createGdsf(clock), part: pinnedPart }
  const parts = [...owned.values(), rest, pinned]
  let pins: ReadonlySet<Digest> = new Set()

  const partOf = (owner: string | undefined): Gdsf => {
    if (owner === undefined) return rest.gdsf
    const [upstream = ''] = owner.split('!')
    return (owned.get(owner) ?? owned.get(upstream) ?? rest).gdsf
  }
  /** Where a blob is; what is nowhere is asked of any. */
  const homeOf = (digest: Digest): Gdsf => {
    if (owned.size === 0 && pinned.gdsf.count === 0) return rest.gdsf
    return parts.find(({ gdsf }) => gdsf.has(digest))?.gdsf ?? rest.gdsf
  }
  const move = (digest: Digest, to: Gdsf): void => {
    const from = homeOf(digest)
    const blob = from === to ? undefined : from.take(digest)
    if (blob !== undefined) to.put(blob)
  }
  const over = (capacityBytes: number): readonly Part[] =>
    parts.filter(({ gdsf, part }) => gdsf.bytes > part * capacityBytes)

  return {
    get count() {
      return parts.reduce((sum, { gdsf }) => sum + gdsf.count, 0)
    },
    add(digest, { owner, ...blob }) {
      const home = pins.has(digest) ? pinned.gdsf : partOf(owner)
      // It may have been another's.
      for (const { gdsf } of parts) if (gdsf !== home) gdsf.remove(digest)
      return home.add(digest, blob)
    },
    use: (digest, now) => homeOf(digest).use(digest, now),
    setCost: (digest, cost) => homeOf(digest).setCost(digest, cost),
    demote: (digest) => homeOf(digest).demote(digest),
    remove: (digest) => homeOf(digest).remove(digest),
    recordOf: (digest) => homeOf(digest).recordOf(digest),
    giveUp(now, isKept, { capacityBytes, only }) {
      const first = over(capacityBytes)
      const others = only === 'shares' ? [] : lowestFirst(parts.filter((part) => part !== pinned))
      for (const { gdsf } of [...first, ...others]) {
        const given = gdsf.giveUp(now, isKept)
        if (given !== undefined) return given
      }
      return undefined
    },
    setPins(next, ownerOf) {
      const before = pins
      pins = next
      for (const digest of before) if (!next.has(digest)) move(digest, partOf(ownerOf(digest)))
      for (const digest of next) if (!before.has(digest)) move(digest, pinned.gdsf)
    },
    get pinnedBytes() {
      return pinned.gdsf.bytes
    },
    isOver: (capacityBytes) => over(capacityBytes).length > 0,
    restore(blobs) {
      const byPart = new Map<Gdsf, HeldBlob[]>()
      for (const blob of blobs) {
        const home = partOf(blob.owner)
        const list = byPart.get(home) ?? []
        byPart.set(home, list)
        list.push(blob)
      }
      for (const [gdsf, list] of byPart) gdsf.restore(list)
    },
  }
}

function lowestFirst(parts: readonly Part[]): readonly Part[] {
  if (parts.length === 1) return parts
  const lowestOf = ({ gdsf }: Part): number => gdsf.lowest ?? Infinity
  return [...parts].sort((one, other) => lowestOf(one) - lowestOf(other))
}
