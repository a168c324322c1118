import type { Digest } from '../../shared/oci/digest.ts'
import type { Descriptor } from '../../shared/oci/manifest.ts'
import type { RepositoryName } from '../../shared/oci/reference.ts'
import type { RosterEdge, RuleFact } from '../../shared/replication/events.ts'
import type { PrefetchFailure, PreheatReport } from '../../shared/replication/lease.ts'
import { isOnPlatform } from '../../shared/replication/platforms.ts'
import { parseSelector, selects } from '../../shared/replication/selector.ts'
import type { Origin } from '../cache/cache-index.ts'
import type { KnownRule } from '../cache/statement-records.ts'
import type { KnownEvent } from '../cache/statement-events.ts'
import type { Selection, Statements } from '../cache/statements.ts'
import { createGuards, type Guards } from './guards.ts'
import { checkRoom, NoSpaceError, type PinRoom } from './pin-room.ts'
import { createPreheats, isPreheat, keyOf, selectionOf } from './preheats.ts'

/** What rules bring to this edge, and how far it is with that. */
export interface Wanted {
  /** Looks at all of it again: a snapshot came. @returns when it has */
  readAgain(): Promise<void>
  /** This was recorded. */
  applied(events: readonly KnownEvent[]): void
  /** A tag may not name this manifest yet: a rule says that all of it has to be here first. */
  isIncomplete(repositoryId: number, digest: Digest): boolean
  /** Whether a tag that moved by this event is held back until it is known what rules make of it. */
  isGuarded: Guards['holds']
  /** Whether a rule brings images here that are answered only when all of them is here. */
  wantsWhole(rule: RuleFact): boolean
  /** Something that was to stay went: what lacks it now is fetched again, and meanwhile answered as it is. */
  lost(): void
  /** The primary is back: what failed is tried at once, however long it was to wait. */
  retry(): void
  /** All that rules bring here, but for what there is no room for. */
  roots(): readonly Digest[]
  progress(): WantedProgress
  /** Resolves when nothing is being fetched. */
  close(): Promise<void>
}

export interface WantedProgress {
  /** Up to here all that was selected is here, or was given up on for now. */
  readonly heldSeq: number
  /** Of what is known to be missing. */
  readonly waitingBytes: number
  readonly failures: readonly PrefetchFailure[]
  readonly preheats: readonly PreheatReport[]
  /** Whether all that rules and preheats bring is known, and here. */
  readonly isWhole: boolean
}

/** An image of which all that is missing is fetched. */
export interface WantedImage {
  readonly origin: Origin
  readonly digest: Digest
  /** `os/architecture[/variant]` of an index's children; empty: all. */
  readonly platforms: readonly string[]
}

export interface WantedDeps {
  readonly edgeId: string
  /** The primary's id in the table of upstreams. */
  readonly upstream: string
  readonly statements: Statements
  /** The parts of a manifest, fetched if it is not here. @throws SourceError, or that it does not exist */
  readonly manifest: (origin: Origin, digest: Digest) => Promise<WantedParts>
  /** Fetches a blob if it is not here. @throws the signal's reason, at once, when nobody wants it any more */
  readonly blob: (
    origin: Origin,
    blob: Pick<Descriptor, 'digest' | 'size'>,
    how: {
      /** Whether the rule brings it to this edge too. */
      readonly isSharer: (edge: RosterEdge) => boolean
      readonly signal: AbortSignal
    },
  ) => Promise<void>
  readonly isHeld: (digest: Digest) => boolean
  /** The parts of a manifest that is here; undefined: it is not. */
  readonly heldParts: (digest: Digest) => Promise<WantedParts | undefined>
  readonly isPinned: (digest: Digest) => boolean
  readonly room: () => PinRoom
  /** Keeps what rules bring from being evicted; called before a first blob comes. */
  readonly pin: () => Promise<void>
  /** Told when it is further, or has given up on something: the primary may want to know. */
  readonly onProgress: () => void
  /** Told why something could not be got, each time. */
  readonly onFailed: (error: unknown) => void
  /** Told of what a rule brought, once it is all here. */
  readonly onHeld: (selection: Selection) => void
  /** Epoch ms. */
  readonly now: () => number
  readonly retryMs?: number
}

export interface WantedParts {
  readonly blobs: readonly Descriptor[]
  readonly manifests: readonly Descriptor[]
}

const imagesAtOnce = 2
const blobsAtOnce = 3
/** What could not be got is tried again this much later, twice as late each time. */
const firstRetryMs = 5000
const longestRetryMs = 600_000
/** The first failures may be those of a primary whose database is away while its events go on: they cost no minutes. */
const firstFailures = 8
/** Of those, and of a preheat, which has a deadline. */
const longestFirstRetryMs = 20_000
/** After so many failures it holds nobody up: it is told of as failed, and tried on. */
const givenUpAfter = 3
const maxFailures = 100

interface Work {
  selection: Selection
  readonly rule: RuleFact
  failures: number
  reason: string
  /** What is still to come, by its size; undefined until that is known. */
  missing: Map<Digest, number> | undefined
  /** There is no room for it: nothing of it is kept from being evicted. */
  lacksRoom: boolean
  /** Not before; steady milliseconds. */
  dueAt: number
  running: boolean
  /** It is not wanted any more. */
  readonly ended: AbortController
}

/** Fetches what the rules that select this edge bring, and tells how far that is. */
export function createWanted(deps: WantedDeps): Wanted {
  const { edgeId, upstream, statements } = deps
  const stopping = new AbortController()
  const works = new Map<string, Work>()
  /** All that rules bring, held or not. */
  const roots = new Map<string, Digest>()
  let rules: Map<number, KnownRule> = new Map()
  let guards = createGuards([])
  /** `repository!digest` of what a rule wants whole; made when it is asked for. */
  let incomplete: Set<string> | undefined
  /** Selections up to here are in `works`. */
  let readSeq = 0
  /** What the log says while selections are read, which may not know it. */
  let meanwhile: Map<string, 'selected' | 'unselected'> | undefined
  let again = false
  let reading: Promise<void> | undefined
  let timer: NodeJS.Timeout | undefined
  const preheats = createPreheats({ now: deps.now, onOver: () => void readAgain() })
  const running = new Set<Promise<void>>()
  let isVerified = false
  let verifying: Promise<void> | undefined
  let verifyAgain = false
  /** When the primary came back; steady milliseconds. */
  let returnedAt = -Infinity

  /** This edge as the roster has it; undefined where rules bring it nothing. */
  const activeSelf = (): RosterEdge | undefined => {
    const me = statements.edge(edgeId)
    return me?.suspended === true ? undefined : me
  }
  const isSelected = (rule: RuleFact, me: RosterEdge): boolean =>
    rule.enabled && selects(parseSelector(rule.selector), me)

  /** @returns whether a rule brings it here */
  const want = (selection: Selection): boolean => {
    const rule = rules.get(selection.ruleId)
    if (rule === undefined) return false
    const key = keyOf(selection)
    roots.set(key, selection.digest)
    if (!selection.isHeld && !works.has(key)) works.set(key, newWork(selection, rule))
    return true
  }
  /** It was selected, perhaps not for the first time: somebody wants it tried at once. */
  const tryAgain = (selection: Selection): void => {
    want(selection)
    const work = works.get(keyOf(selection))
    if (work === undefined) return
    work.selection = { ...selection, isDemoted: work.selection.isDemoted }
    work.failures = 0
    work.dueAt = 0
  }
  const forget = (key: string): void => {
    roots.delete(key)
    works.get(key)?.ended.abort(new Error('nothing wants it here any more'))
    works.delete(key)
  }
  /** There may be room now for what had none. */
  const retryForRoom = (): void => {
    for (const work of works.values()) if (work.lacksRoom) work.dueAt = 0
  }
  const retry = (): void => {
    returnedAt = performance.now()
    for (const work of works.values()) work.dueAt = 0
    begin()
  }
  const demote = async (work: Work): Promise<void> => {
    work.selection = { ...work.selection, isHeld: false, isDemoted: true }
    incomplete = undefined
    if (!isPreheat(work.selection))
      await statements.demote(work.selection).catch((error: unknown) => deps.onFailed(error))
  }

  const isWhole = async (digest: Digest, platforms: readonly string[]): Promise<boolean> => {
    const parts = await deps.heldParts(digest)
    if (parts?.blobs.every((blob) => deps.isHeld(blob.digest)) !== true) return false
    for (const child of parts.manifests)
      if (isOnPlatform(child, platforms) && !(await isWhole(child.digest, platforms))) return false
    return true
  }
  /** Looks whether what is said to be all here is. */
  const verify = async (): Promise<void> => {
    for await (const selection of statements.selections()) {
      if (stopping.signal.aborted) return
      const [key, rule] = [keyOf(selection), rules.get(selection.ruleId)]
      if (!selection.isHeld || rule === undefined) continue
      if (await isWhole(selection.digest, rule.platforms)) continue
      // It may have been unselected, or asked for again, meanwhile.
      if (!roots.has(key) || works.has(key)) continue
      const work = newWork(selection, rule)
      works.set(key, work)
      await demote(work)
    }
  }
  const verifyUntilStill = async (): Promise<void> => {
    do {
      verifyAgain = false
      await verify()
    } while (verifyAgain && !stopping.signal.aborted)
    deps.onProgress()
    begin()
  }

  const read = async (): Promise<void> => {
    const seq = statements.cursor?.seq ?? 0
    const me = activeSelf()
    const said = new Map<string, 'selected' | 'unselected'>()
    meanwhile = said
    rules = new Map(
      me === undefined
        ? []
        : (await statements.rules())
            .filter((rule) => isSelected(rule, me))
            .map((rule) => [rule.ruleId, rule] as const),
    )
    guards = createGuards(rules.values())
    const selected = new Set<string>()
    for await (const selection of statements.selections()) {
      const key = keyOf(selection)
      if (said.get(key) !== 'unselected' && want(selection)) selected.add(key)
    }
    const isFor = me === undefined ? [] : await statements.preheats()
    for (const preheat of preheats.set(isFor.filter(({ edges }) => edges.includes(edgeId)))) {
      const selection = selectionOf(preheat, { seq, isHeld: preheats.isHeld(preheat.preheatId) })
      rules.set(selection.ruleId, preheat.rule)
      if (want(selection)) selected.add(keyOf(selection))
    }
    for (const key of roots.keys())
      if (!selected.has(key) && said.get(key) !== 'selected') forget(key)
    meanwhile = undefined
    readSeq = Math.max(readSeq, seq)
    incomplete = undefined
    await deps.pin()
    if (!isVerified) await verify()
    isVerified = true
    retryForRoom()
    begin()
  }
  const readUntilStill = async (): Promise<void> => {
    do {
      again = false
      await read()
    } while (again && !stopping.signal.aborted)
  }

  const readAgain = (): Promise<void> => {
    again = true
    reading ??= readUntilStill()
      .catch(() => {
        // The disk is ill: the next change looks again.
      })
      .finally(() => {
        reading = undefined
      })
    return reading
  }

  /** What is not selected any more is not kept any more either. */
  const letGo = async (): Promise<void> => {
    await deps.pin().catch((error: unknown) => deps.onFailed(error))
    retryForRoom()
    begin()
  }

  const begin = (): void => {
    clearTimeout(timer)
    if (stopping.signal.aborted) return
    const now = performance.now()
    // What somebody waits for comes before what is fetched for later.
    const byTurn = [...works.values()].sort((one, other) => turnOf(one) - turnOf(other))
    for (const work of byTurn) {
      if (running.size >= imagesAtOnce) return
      if (work.running || work.dueAt > now) continue
      work.running = true
      const job: Promise<void> = fetchOne(work).finally(() => {
        work.running = false
        running.delete(job)
        begin()
      })
      running.add(job)
    }
    const waiting = [...works.values()].filter((work) => !work.running)
    if (waiting.length === 0) return
    const next = leastOf(waiting, ({ dueAt }) => dueAt)
    timer = setTimeout(begin, Math.max(10, next - performance.now())).unref()
  }

  const fetchOne = async (work: Work): Promise<void> => {
    const { selection, rule } = work
    const begunAt = performance.now()
    try {
      const repository = statements.repositoryName(selection.projectId, selection.repositoryId)
      if (repository === undefined) throw new Error('its repository is gone')
      const origin = {
        upstream,
        repository: repository as RepositoryName,
        project: selection.projectId,
      }
      await fetchImage({ origin, digest: selection.digest, platforms: rule.platforms }, work)
      if (work.ended.signal.aborted) return
      if (isPreheat(selection)) preheats.markHeld(selection.ruleId)
      else await statements.markHeld(selection)
      // It may have been let go meanwhile, and asked for anew.
      if (works.get(keyOf(selection)) === work) works.delete(keyOf(selection))
      incomplete = undefined
      deps.onHeld(selection)
      deps.onProgress()
    } catch (error) {
      if (stopping.signal.aborted || work.ended.signal.aborted) return
      deps.onFailed(error)
      await failed(work, error, begunAt)
    }
  }
  const failed = async (work: Work, error: unknown, begunAt: number): Promise<void> => {
    const { selection } = work
    const isRoom = error instanceof NoSpaceError
    const wasGivenUp = isGivenUp(work)
    // Looking again costs nothing to speak of, and whatever goes has it looked at sooner.
    work.failures = isRoom ? Math.max(givenUpAfter, work.failures) : work.failures + 1
    work.reason = error instanceof Error ? error.message : String(error)
    const isFirst = !isRoom && work.failures <= firstFailures
    const longest = isPreheat(selection) || isFirst ? longestFirstRetryMs : longestRetryMs
    // What was begun while the primary was away says nothing of how long to wait now.
    const doublings = begunAt < returnedAt ? 0 : work.failures - 1
    const after = isRoom ? longest : (deps.retryMs ?? firstRetryMs) * 2 ** doublings
    work.dueAt = performance.now() + Math.min(longest, after)
    if (isRoom && !work.lacksRoom) {
      work.lacksRoom = true
      await demote(work)
      await deps.pin().catch((cause: unknown) => deps.onFailed(cause))
    }
    if (!wasGivenUp && isGivenUp(work)) deps.onProgress()
  }

  const fetchImage = async (image: WantedImage, work: Work): Promise<void> => {
    const { origin, digest, platforms } = image
    const blobs = new Map<Digest, number>()
    const collect = async (of: Digest): Promise<void> => {
      const parts = await deps.manifest(origin, of)
      for (const blob of parts.blobs) blobs.set(blob.digest, blob.size)
      for (const child of parts.manifests)
        if (isOnPlatform(child, platforms)) await collect(child.digest)
    }
    await collect(digest)
    const missing = new Map([...blobs].filter(([blob]) => !deps.isHeld(blob)))
    work.missing = missing
    const room = deps.room()
    await room.restored
    checkRoom(blobs, {
      room,
      isPaid: (blob) => deps.isPinned(blob) && deps.isHeld(blob),
      coming: [...works.values()]
        .filter((other) => other !== work && other.running && !other.lacksRoom)
        .flatMap((other) => [...(other.missing ?? [])]),
    })
    work.lacksRoom = false
    await deps.pin()
    if (isPreheat(work.selection)) deps.onProgress()
    // Those that are here for other repositories too: this one needs its own links.
    const left = blobs.entries()
    // Whom a preheat is for besides is not known here.
    const isSharer = (edge: RosterEdge): boolean =>
      !isPreheat(work.selection) && isSelected(work.rule, edge)
    const signal = AbortSignal.any([stopping.signal, work.ended.signal])
    const fetchNext = async (): Promise<void> => {
      for (const [blob, size] of left) {
        signal.throwIfAborted()
        await deps.blob(origin, { digest: blob, size }, { isSharer, signal })
        missing.delete(blob)
      }
    }
    await Promise.all(Array.from({ length: blobsAtOnce }, fetchNext))
  }

  return {
    readAgain,
    applied(events) {
      let isOther = false
      for (const { seq, fact } of events) {
        if (fact.type === 'selected' || fact.type === 'unselected')
          meanwhile?.set(keyOf(fact), fact.type)
        if (fact.type === 'selected') tryAgain({ ...fact, seq, isHeld: false, isDemoted: false })
        else if (fact.type === 'unselected') forget(keyOf(fact))
        else if (fact.type === 'rule' || fact.type === 'rule-deleted') isOther = true
        else if (fact.type === 'edge' && fact.edgeId === edgeId) isOther = true
        else if (fact.type === 'project-deleted') isOther = true
        else if (fact.type === 'preheat' || fact.type === 'preheat-ended') isOther = true
        else continue
        incomplete = undefined
      }
      if (isOther) void readAgain().then(deps.onProgress)
      else if (reading === undefined) readSeq = statements.cursor?.seq ?? 0
      if (!isOther && events.some(({ fact }) => fact.type === 'unselected')) void letGo()
      if (events.some(({ fact }) => fact.type === 'selected' || fact.type === 'unselected'))
        deps.onProgress()
      begin()
    },
    isIncomplete(repositoryId, digest) {
      if (works.size === 0) return false
      incomplete ??= new Set(
        [...works.values()]
          .filter(({ rule, selection }) => rule.serve === 'complete' && !selection.isDemoted)
          .map(({ selection }) => `${selection.repositoryId}!${selection.digest}`),
      )
      return incomplete.has(`${repositoryId}!${digest}`)
    },
    isGuarded: (...tag) => guards.holds(...tag),
    wantsWhole(rule) {
      const me = activeSelf()
      return rule.serve === 'complete' && me !== undefined && isSelected(rule, me)
    },
    retry,
    lost() {
      verifyAgain = true
      verifying ??= verifyUntilStill()
        .catch((error: unknown) => deps.onFailed(error))
        .finally(() => {
          verifying = undefined
        })
    },
    roots: () =>
      [...roots].flatMap(([key, digest]) => (works.get(key)?.lacksRoom === true ? [] : [digest])),
    progress() {
      const all = [...works.values()]
      const open = all.filter(({ selection }) => !isPreheat(selection))
      const holding = open.filter(({ failures }) => failures < givenUpAfter)
      const first = leastOf(holding, ({ selection }) => selection.seq)
      const failures = open
        .filter((work) => work.failures >= givenUpAfter)
        .slice(0, maxFailures)
        .map(({ selection, reason }) => ({
          ruleId: selection.ruleId,
          repositoryId: selection.repositoryId,
          digest: selection.digest,
          reason: reason.slice(0, 256),
        }))
      return {
        heldSeq: Math.max(0, Math.min(readSeq, first - 1)),
        waitingBytes: all.reduce((sum, work) => sum + missingBytes(work), 0),
        failures,
        isWhole: works.size === 0 && reading === undefined && readSeq === statements.cursor?.seq,
        preheats: preheats.report((key) => works.get(key)),
      }
    },
    async close() {
      stopping.abort()
      preheats.close()
      clearTimeout(timer)
      await reading
      await verifying
      await Promise.all(running)
    },
  }
}

function newWork(selection: Selection, rule: RuleFact): Work {
  return {
    selection,
    rule,
    failures: 0,
    reason: '',
    missing: undefined,
    // Until it is found that there is: what was fetched for it otherwise may be more than fits.
    lacksRoom: selection.isDemoted,
    dueAt: 0,
    running: false,
    ended: new AbortController(),
  }
}

/** Whether it holds nobody up any more. */
function isGivenUp({ selection, failures }: Work): boolean {
  return failures >= (isPreheat(selection) ? 1 : givenUpAfter)
}

function missingBytes({ missing }: Work): number {
  return [...(missing?.values() ?? [])].reduce((sum, size) => sum + size, 0)
}

function turnOf({ selection }: Work): number {
  return isPreheat(selection) ? 0 : 1
}

/** Infinity of none; there may be too many of them for arguments. */
function leastOf<Item>(items: readonly Item[], of: (item: Item) => number): number {
  return items.reduce((least, item) => Math.min(least, of(item)), Infinity)
}
