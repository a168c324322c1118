import { createLru } from '../../shared/memory/lru.ts'
import type { Digest } from '../../shared/oci/digest.ts'
import type { Tag } from '../../shared/oci/reference.ts'
import type { UpstreamRequest } from '../../shared/upstream/fetch.ts'
import { lasts } from '../../shared/stream/lasts.ts'
import type { Origin, TagEntry } from '../cache/cache-index.ts'
import type { StatedTag } from '../replication/stated.ts'
import { isPassing, isRefusal } from '../upstreams/refused.ts'
import { createShare } from '../upstreams/share.ts'
import { keyOf, withoutSignal } from './questions.ts'

/** Where a tag points. */
export interface ResolvedTag {
  readonly digest: Digest
  /** Milliseconds since the upstream last said so, when it could not be asked again. */
  readonly staleMs: number | undefined
}

/** Why a tag was answered that its upstream had not confirmed. */
export type StaleReason = 'away' | 'slow' | 'rate_limit'

/** How the tags of one upstream are answered. */
export interface TagRules {
  /** Milliseconds that a tag is answered without asking. */
  readonly ttlMs: number
  /** Milliseconds that a client waits whose tag is known. */
  readonly waitMs: number
  /** Whether the edge may ask by itself: not where each client's own credential decides. */
  readonly mayRefresh: boolean
  /** Milliseconds since a tag was confirmed, beyond which it is not answered without being so. */
  readonly maxStaleMs: number
}

export interface TagsDeps {
  readonly rules: (upstream: string) => TagRules
  readonly find: (origin: Origin, tag: Tag) => TagEntry | undefined
  /** What the log of the upstream says, where it is followed. */
  readonly stated: (origin: Origin, tag: Tag) => StatedTag | undefined
  /**
   * Makes sure that the manifest could be given, and writes down that the tag is answered so.
   * @throws SourceError when it cannot be known
   */
  readonly hold: (
    origin: Origin,
    tag: Tag,
    wanted: {
      readonly digest: Digest
      readonly request: UpstreamRequest | undefined
      /** When that was so, in epoch ms; now if left out. */
      readonly checkedAt?: number
    },
  ) => Promise<boolean>
  /**
   * Asks the upstream, and keeps what it says: the manifest is held before the tag is.
   * @returns undefined when the upstream has no such tag, and the tag is forgotten
   */
  readonly ask: (
    origin: Origin,
    tag: Tag,
    request: UpstreamRequest | undefined,
  ) => Promise<Digest | undefined>
  /** Whether the manifest could be given now. */
  readonly isHeld: (origin: Origin, digest: Digest) => Promise<boolean>
  /** Milliseconds for which a known tag is rather not asked for: the upstream's rate limit is almost used up. */
  readonly savingMs: (upstream: string) => number | undefined
  readonly onStale: (upstream: string, reason: StaleReason) => void
  readonly now: () => number
}

/** When an upstream is asked for a tag, and when the last answer stands. */
export interface Tags {
  /** Where a tag points that is within the upstream's TTL; undefined says nothing. */
  known(origin: Origin, tag: Tag): Digest | undefined
  /**
   * Where a tag points: as remembered within the TTL, else as the upstream says now. An upstream that does not
   * answer, or not soon, leaves the last answer standing; one that says no ends it.
   * @throws SourceError when it cannot be known
   */
  resolve(origin: Origin, tag: Tag, request?: UpstreamRequest): Promise<ResolvedTag | undefined>
}

/** Tags in use are asked for behind their clients' backs, each at a time of its own, from here to the end of the TTL. */
const refreshFrom = 0.75
const refreshSpread = 0.2

/** Tags that an upstream said no to while its log was not whole. */
const rememberedDenials = 10_000

export function createTags(deps: TagsDeps): Tags {
  const { rules, find, stated, ask, hold, isHeld, savingMs, onStale, now } = deps
  const askOnce = createShare<Digest | undefined>()
  /** When the upstream last said no to what its log had named. */
  const deniedAt = createLru<string, number>({ max: rememberedDenials })

  // A negative age is a clock that was set back: it says nothing about the tag.
  const isFresh = (ageMs: number, ttlMs: number): boolean => ageMs >= 0 && ageMs < ttlMs

  const refreshIfDue = (origin: Origin, tag: Tag, known: TagEntry): void => {
    const { ttlMs, mayRefresh } = rules(origin.upstream)
    const share = (now() - known.checkedAt) / ttlMs
    if (
      !mayRefresh ||
      share < refreshFrom ||
      share < refreshFrom + refreshSpread * fractionOf(known)
    )
      return
    const key = keyOf(origin, tag)
    if (askOnce.isRunning(key) || savingMs(origin.upstream) !== undefined) return
    // Who asks next meets the same trouble, and tells of it.
    askOnce(key, () => ask(origin, tag, undefined)).catch(ignore)
  }

  /** Stale is better than nothing, unless it is older than may be or its manifest is not here. */
  const staleOf = async (origin: Origin, known: TagEntry | undefined, maxMs: number) => {
    if (known === undefined) return undefined
    const staleMs = Math.max(now() - known.checkedAt, 0)
    const isGood = staleMs <= maxMs && (await isHeld(origin, known.digest))
    return isGood ? { digest: known.digest, staleMs } : undefined
  }

  /** What was heard may be what a rule wants whole: only what the log says by now is answered. */
  const resolveGuarded = async (
    origin: Origin,
    tag: Tag,
    { found, request }: { readonly found: Digest; readonly request: UpstreamRequest | undefined },
  ): Promise<ResolvedTag | undefined> => {
    const digest = stated(origin, tag)?.digest
    if (digest === undefined) return undefined
    const isHere = digest === found || (await hold(origin, tag, { digest, request }))
    return isHere ? { digest, staleMs: undefined } : undefined
  }

  /**
   * Inside the lease the log's word stands and nobody is asked; but a tag that it does not have yet may just have been
   * pushed. Outside it the upstream is asked, and the log's last word stands if that fails.
   */
  const resolveStated = async (
    origin: Origin,
    tag: Tag,
    { said, request }: { readonly said: StatedTag; readonly request: UpstreamRequest | undefined },
  ): Promise<ResolvedTag | undefined> => {
    const { digest, isFresh, isEarly, currentAt } = said
    const { upstream } = origin
    const maxStaleMs = Math.min(said.maxStaleMs, rules(upstream).maxStaleMs)
    const rest = withoutSignal(request)
    try {
      // The primary would name the one that is not all here yet.
      if (isEarly && digest === undefined) return undefined
      if (digest !== undefined && (isFresh || isEarly)) {
        if (await hold(origin, tag, { digest, request: rest }))
          return { digest, staleMs: undefined }
        // It was deleted since.
        return undefined
      }
      const found = await askOnce(keyOf(origin, tag, rest), () => ask(origin, tag, rest))
      if (found === undefined) deniedAt.set(keyOf(origin, tag), now())
      else if (said.isGuarded) return await resolveGuarded(origin, tag, { found, request: rest })
      return found && { digest: found, staleMs: undefined }
    } catch (error) {
      if (isRefusal(error)) deniedAt.set(keyOf(origin, tag), now())
      if (!isPassing(error)) throw error
      if (isFresh && digest === undefined) return undefined
      // What the upstream said no to since the log was whole is answered by nobody's memory.
      if ((deniedAt.get(keyOf(origin, tag)) ?? -Infinity) > currentAt) throw error
      // The log's word is no older than any answer, for what was heard is part of it. Where that is not here, the last
      // answer stands: whoever is answered has it written down before.
      if (digest === undefined) throw error
      const answered = find(origin, tag)
      const answeredAt = Math.max(currentAt, answered?.checkedAt ?? 0)
      const checkedAt = answered?.digest === digest ? answeredAt : currentAt
      const last = await staleOf(origin, { digest, checkedAt }, maxStaleMs)
      if (last !== undefined) await hold(origin, tag, { digest, request: rest, checkedAt })
      const before = said.isGuarded ? undefined : answered
      const stale =
        last ?? (await staleOf(origin, before && { ...before, checkedAt: answeredAt }, maxStaleMs))
      if (stale === undefined) throw error
      onStale(upstream, 'away')
      return stale
    }
  }

  return {
    known(origin, tag) {
      const said = stated(origin, tag)
      const known = find(origin, tag)
      // What is answered is written down: it is what stands if what the log says next cannot be had.
      if (said !== undefined)
        return said.isFresh && known?.digest === said.digest ? said.digest : undefined
      if (known === undefined) return undefined
      const { ttlMs } = rules(origin.upstream)
      if (!isFresh(now() - known.checkedAt, ttlMs)) return undefined
      refreshIfDue(origin, tag, known)
      return known.digest
    },
    async resolve(origin, tag, request) {
      const said = stated(origin, tag)
      if (said !== undefined) return resolveStated(origin, tag, { said, request })
      const { upstream } = origin
      const { ttlMs, waitMs, maxStaleMs } = rules(upstream)
      const known = find(origin, tag)
      if (known !== undefined && isFresh(now() - known.checkedAt, ttlMs)) {
        refreshIfDue(origin, tag, known)
        return { digest: known.digest, staleMs: undefined }
      }
      const saving = savingMs(upstream)
      const saved =
        saving === undefined
          ? undefined
          : await staleOf(origin, known, Math.min(saving, maxStaleMs))
      if (saved !== undefined) {
        onStale(upstream, 'rate_limit')
        return saved
      }
      const rest = withoutSignal(request)
      const asking = askOnce(keyOf(origin, tag, rest), () => ask(origin, tag, rest))
      try {
        const isLate = known !== undefined && (await lasts(asking, waitMs))
        const stale = isLate ? await staleOf(origin, known, maxStaleMs) : undefined
        if (stale !== undefined) {
          onStale(upstream, 'slow')
          return stale
        }
        const digest = await asking
        return digest && { digest, staleMs: undefined }
      } catch (error) {
        // Found again: what the upstream said to another who asked may have ended it meanwhile.
        const stale = isPassing(error)
          ? await staleOf(origin, find(origin, tag), maxStaleMs)
          : undefined
        if (stale === undefined) throw error
        onStale(upstream, 'away')
        return stale
      }
    },
  }
}

/** A number from 0 to 1 of the entry's own. */
function fractionOf({ digest, checkedAt }: TagEntry): number {
  return ((parseInt(digest.slice(-6), 16) + checkedAt) % 1000) / 1000
}

function ignore(): void {}
