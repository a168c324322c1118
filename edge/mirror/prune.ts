import { setTimeout as delay } from 'node:timers/promises'
import type { Logger } from '../../shared/observability/log.ts'
import type { Digest } from '../../shared/oci/digest.ts'
import type { PruneReport } from '../../shared/replication/lease.ts'
import type { CachedBlobs } from '../cache/blobs.ts'

export interface PruneOptions {
  readonly mode: 'dry_run' | 'on'
  /** Per cent of the upstream's bytes that may go at once. */
  readonly limit: number
  /** Milliseconds. */
  readonly every: number
}

export interface PruneDeps {
  readonly options: PruneOptions
  /** Whose images go: the primary's id in the table of upstreams. */
  readonly upstream: string
  readonly blobs: Pick<CachedBlobs, 'list' | 'prune' | 'upstreamsOf'>
  /** Whether all is known that keeps anything here, and all of that is here. */
  readonly isSettled: () => boolean
  /** What stays; undefined when that cannot be told. */
  readonly kept: () => Promise<ReadonlySet<Digest> | undefined>
  readonly log: Logger
  /** Epoch ms. */
  readonly now: () => number
}

/** What a run came to. */
export interface Pruned {
  /** `unsettled`: nothing was looked at. `refused`: it would have been more than the limit. */
  readonly outcome: 'unsettled' | 'nothing' | 'refused' | 'shown' | 'done'
  /** What would go, or went. */
  readonly digests: readonly Digest[]
  readonly bytes: number
}

/** Digests that the log lists. */
const maxListed = 200
/** Digests that the primary is told of. */
const maxReported = 20

/** Lets go what is held of the primary and nothing keeps here, so that the edge holds what its rules select. */
export function createPrune({ options, upstream, blobs, isSettled, kept, log, now }: PruneDeps) {
  const stopping = new AbortController()
  let running: Promise<void> | undefined
  let report: PruneReport | undefined

  async function run(): Promise<Pruned> {
    const pruned = await prune()
    if (pruned.outcome !== 'unsettled') report = reportOf(pruned, { at: now(), before: report })
    return pruned
  }

  async function prune(): Promise<Pruned> {
    if (!isSettled()) return nothing('unsettled')
    const stays = await kept()
    // It may be that something has come to be kept meanwhile.
    if (stays === undefined || !isSettled()) return nothing('unsettled')
    const before = now() - options.every / 2
    const { all, going } = await look(stays)
    const bytes = sum(going)
    if (going.length === 0) return nothing('nothing')
    const found = { digests: going.map(({ digest }) => digest), bytes }
    const told = { blobs: going.length, bytes, ofBytes: all }
    if (options.mode === 'dry_run') {
      const digests = found.digests.slice(0, maxListed)
      log.info({ ...told, digests }, 'this would be pruned: nothing keeps it here')
      return { outcome: 'shown', ...found }
    }
    if (bytes * 100 > all * options.limit) {
      log.warn(
        { ...told, limit: options.limit },
        'nothing is pruned: it would be more than edge.cache.prune.limit allows at once; look with mode dry_run, and raise the limit if that is right',
      )
      return { outcome: 'refused', ...found }
    }
    const gone: typeof going = []
    for (const blob of going) {
      if (stopping.signal.aborted || !isSettled()) break
      if (await blobs.prune(blob.digest, before)) gone.push(blob)
    }
    log.info({ blobs: gone.length, bytes: sum(gone) }, 'what nothing keeps here was pruned')
    return { outcome: 'done', digests: gone.map(({ digest }) => digest), bytes: sum(gone) }
  }

  /** What is of the upstream alone, and what of it nothing keeps. */
  async function look(stays: ReadonlySet<Digest>) {
    let all = 0
    const going: { readonly digest: Digest; readonly bytes: number }[] = []
    for await (const some of blobs.list()) {
      for (const { digest, bytes } of some) {
        if (stopping.signal.aborted) return { all, going }
        const upstreams = await blobs.upstreamsOf(digest)
        if (!upstreams.has(upstream)) continue
        all += bytes
        if (upstreams.size === 1 && !stays.has(digest)) going.push({ digest, bytes })
      }
    }
    return { all, going }
  }

  async function repeat(): Promise<void> {
    const { signal } = stopping
    while (!signal.aborted) {
      await delay(options.every, undefined, { signal, ref: false }).catch(() => undefined)
      if (signal.aborted) return
      await run().catch((err: unknown) => log.warn({ err }, 'a prune failed; the next one may not'))
    }
  }

  return {
    run,
    /** What the last look came to; undefined before the first. */
    report: () => report,
    /** Runs now and again. */
    start(): void {
      running ??= repeat()
    },
    /** Resolves when nothing is being removed. */
    async close(): Promise<void> {
      stopping.abort()
      await running
    },
  }
}

function nothing(outcome: Pruned['outcome']): Pruned {
  return { outcome, digests: [], bytes: 0 }
}

function reportOf(
  { outcome, digests, bytes }: Pruned,
  { at, before }: { readonly at: number; readonly before: PruneReport | undefined },
): PruneReport {
  const isDone = outcome === 'done'
  const removed = isDone ? { at, blobs: digests.length, bytes } : before?.removed
  return {
    outcome: outcome === 'unsettled' ? 'nothing' : outcome,
    at,
    blobs: isDone ? 0 : digests.length,
    bytes: isDone ? 0 : bytes,
    digests: isDone ? [] : digests.slice(0, maxReported),
    ...(removed && { removed }),
  }
}

function sum(blobs: readonly { readonly bytes: number }[]): number {
  return blobs.reduce((total, { bytes }) => total + bytes, 0)
}
