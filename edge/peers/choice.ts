import type { Member } from '../../shared/discovery/members.ts'
import { createNearness } from '../../shared/site/nearness.ts'
import { createOutliers } from '../../shared/site/outliers.ts'
import {
  SourceError,
  type BlobSource,
  type OpenedSource,
  type SourceRequest,
} from '../../shared/stream/blob-source.ts'
import type { PeerClient } from '../sources/sources.ts'

/**
 * Whom of a site to ask, and in which order. The roster says who is a member and rendezvous hashing who is the home; this
 * only shortens the try: who is known not to answer is passed by, and of two who may stand in for the home the
 * nearer one with less to do is asked.
 */
export interface PeerChoice {
  /** Those of the site that are worth a try: at least half of them, and all when Consul says that all are gone. */
  reachable<M extends { readonly id: string }>(members: readonly M[]): readonly M[]
  /**
   * @param ranked those before this edge, the home first
   * @returns the home, and who is asked when it does not give it
   */
  order<M extends { readonly id: string }>(ranked: readonly M[]): readonly M[]
  /** The same client, whose answers and failures are noted. */
  watched(id: string, client: PeerClient): PeerClient
}

export interface PeerChoiceOptions {
  /** The edges that Consul says are healthy; none without Consul, or before it said anything. */
  readonly healthy?: () => readonly Member[]
  /** Milliseconds, monotonic. */
  readonly now?: () => number
  /** From 0 to 1. */
  readonly random?: () => number
}

/** Who may stand in for a home: all of a site agree on these, so that a blob is not fetched by more than so many. */
const standIns = 2
/** Consul forgot it for so long: it may have left Consul alone, and is tried again. */
const forgottenMs = 3_600_000

export function createPeerChoice({
  healthy = () => [],
  now = () => performance.now(),
  random,
}: PeerChoiceOptions = {}): PeerChoice {
  const nearness = createNearness({ now, ...(random && { random }) })
  const outliers = createOutliers({ now })
  const running = new Map<string, number>()
  /** When Consul last said that it is healthy: an edge that was never in Consul is not missed there. */
  const listedAt = new Map<string, number>()
  let estimates: ReadonlyMap<string, number | undefined> = new Map()

  /** Those that were healthy, and are not any more. */
  const gone = (): ReadonlySet<string> => {
    const listed = healthy()
    estimates = new Map(listed.map(({ id, estimateMs }) => [id, estimateMs]))
    for (const id of estimates.keys()) listedAt.set(id, now())
    const missing = new Set<string>()
    for (const [id, at] of listedAt) {
      if (estimates.has(id)) continue
      if (now() - at < forgottenMs) missing.add(id)
      else listedAt.delete(id)
    }
    return missing
  }

  /** One request: who is asked has that to do until it ends. */
  const begin = (id: string) => {
    const startedAt = now()
    let hasEnded = false
    const end = (): boolean => {
      if (hasEnded) return false
      hasEnded = true
      running.set(id, (running.get(id) ?? 1) - 1)
      return true
    }
    running.set(id, (running.get(id) ?? 0) + 1)
    return {
      answered: () => nearness.measured(id, now() - startedAt),
      succeeded() {
        if (end()) outliers.succeeded(id)
      },
      failed(error: unknown) {
        if (end() && isFault(error)) outliers.failed(id)
      },
    }
  }

  return {
    reachable(members) {
      const missing = gone()
      const there = members.filter(({ id }) => !missing.has(id))
      return outliers.sift(there.length === 0 ? members : there)
    },
    order(ranked) {
      const [home, ...others] = ranked
      if (home === undefined) return []
      const candidates = others
        .slice(0, standIns)
        .map((member) => ({ id: member.id, estimateMs: estimates.get(member.id), member }))
      const chosen = nearness.choose(candidates, (id) => running.get(id) ?? 0)
      return chosen === undefined ? [home] : [home, chosen.member]
    },
    watched: (id, client) => ({
      entry: client.entry,
      async getManifest(...given) {
        const request = begin(id)
        try {
          const manifest = await client.getManifest(...given)
          request.answered()
          request.succeeded()
          return manifest
        } catch (error) {
          request.failed(error)
          throw error
        }
      },
      openBlob(...given) {
        const source = client.openBlob(...given)
        return { ...source, open: (wanted) => openWatched(source, wanted, begin(id)) }
      },
    }),
  }
}

interface RunningRequest {
  answered(): void
  succeeded(): void
  failed(error: unknown): void
}

/** It succeeded once its body has ended; a fill that loses its patience says so by its signal. */
async function openWatched(
  source: BlobSource,
  wanted: SourceRequest,
  request: RunningRequest,
): Promise<OpenedSource> {
  const failed = (error: unknown): void => {
    const { aborted, reason } = wanted.signal as {
      readonly aborted: boolean
      readonly reason: unknown
    }
    request.failed(aborted ? reason : error)
  }
  try {
    const opened = await source.open(wanted)
    request.answered()
    return {
      ...opened,
      async read(into) {
        try {
          const count = await opened.read(into)
          if (count === 0) request.succeeded()
          return count
        } catch (error) {
          failed(error)
          throw error
        }
      },
      cancel() {
        failed(undefined)
        opened.cancel()
      },
    }
  } catch (error) {
    failed(error)
    throw error
  }
}

/** What it does not have, may not give, or has no hand free for is no fault of it; nor is a request that was called off. */
function isFault(error: unknown): boolean {
  if (!(error instanceof SourceError) || error.instead !== undefined) return false
  return error.code === 'unavailable' || error.code === 'broken'
}
