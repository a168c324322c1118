import { setTimeout as delay } from 'node:timers/promises'
import { createBell } from '../../shared/fill/bell.ts'
import type { Logger } from '../../shared/observability/log.ts'
import { projectOf } from '../../shared/oci/reference.ts'
import type { PullReport, PullReportAnswer } from '../../shared/replication/pulls.ts'
import type { PullBatch, PullLog, Pulls } from '../cache/pull-log.ts'
import type { Statements } from '../cache/statements.ts'
import { LinkRefusedError, type PrimaryLink } from './link.ts'
import { createPullTally, type PullTally, type TalliedPulls } from './pull-tally.ts'

type Link = Pick<PrimaryLink, 'reportPulls'>

/** What clients pull of the primary's content here: counted in memory, soon recorded, told to the primary. */
export interface PullReports {
  /** Whether what is pulled here is reported, so that the primary need not count by what this edge fetches. */
  isReporting(): boolean
  /** Counts a manifest that a client got. */
  count: PullTally['count']
  /** Tells the primary, over this connection, until it is over. */
  sendOver(link: Link, signal: AbortSignal): void
  /** Records what is left to record. */
  close(): Promise<void>
}

export interface PullReportsDeps {
  readonly pulls: PullLog
  readonly statements: Pick<Statements, 'cursor' | 'projectIdOf' | 'repositoryId'>
  /** Told of pulls that will not be told. */
  readonly onLost: (count: number) => void
  readonly onDiskFailed: (error: unknown) => void
  readonly log: Logger
  /** Epoch ms. */
  readonly now: () => number
  /** Milliseconds between looks at what was counted: what a crash may lose. */
  readonly recordMs?: number
  /** Milliseconds that it waits after the first failure to tell; after others longer. */
  readonly pauseMs?: number
}

/** A repository may be so new that the log has not told of it. */
const unknownForMs = 60_000
/** Manifests and tags of such repositories. */
const mostUnknown = 10_000
const longestPauseMs = 60_000

export function createPullReports({
  pulls,
  statements,
  onLost,
  onDiskFailed,
  log,
  now,
  recordMs = 1000,
  pauseMs = 1000,
}: PullReportsDeps): PullReports {
  const tally = createPullTally(now)
  let unknown: readonly TalliedPulls[] = []
  let timer: NodeJS.Timeout | undefined
  let recording: Promise<void> = Promise.resolve()
  const recorded = createBell()
  const stopping = new AbortController()

  /** By the repository's id: a name that is made again inherits nothing. */
  const repositoryIdOf = ({ project, repository }: TalliedPulls): number | undefined => {
    const projectId = project ?? statements.projectIdOf(projectOf(repository))
    return projectId === undefined ? undefined : statements.repositoryId(projectId, repository)
  }
  const takeKnown = (): readonly Pulls[] => {
    const since = now() - unknownForMs
    const known: Pulls[] = []
    const later: TalliedPulls[] = []
    for (const tallied of [...unknown, ...tally.take()]) {
      const { digest, tag, count, lastAt } = tallied
      const repositoryId = repositoryIdOf(tallied)
      if (repositoryId !== undefined) known.push({ repositoryId, digest, tag, count, lastAt })
      else if (lastAt > since && later.length < mostUnknown) later.push(tallied)
      else onLost(count)
    }
    unknown = later
    return known
  }
  const record = async (): Promise<void> => {
    const known = takeKnown()
    if (unknown.length > 0) recordSoon()
    if (known.length === 0) return
    try {
      await pulls.record(known)
    } catch (error) {
      onDiskFailed(error)
    }
    recorded.ring()
  }
  const recordNow = (): Promise<void> => (recording = recording.then(record))
  const recordSoon = (): void => {
    timer ??= setTimeout(() => {
      timer = undefined
      void recordNow()
    }, recordMs).unref()
  }

  /** What is to be told next, once there is something; undefined when the connection is over. */
  const nextBatch = async (over: AbortSignal): Promise<PullBatch | undefined> => {
    for (;;) {
      const more = recorded.wait()
      if (over.aborted) return undefined
      const batch = await pulls.next()
      if (batch !== undefined) return batch
      await more
    }
  }
  const tell = async (batch: PullBatch, link: Link): Promise<void> => {
    const counted = await link.reportPulls(reportOf(batch, now())).then(
      (answer) => readAnswer(answer, batch),
      (error: unknown) => {
        if (!(error instanceof LinkRefusedError) || error.status !== 400) throw error
        // It would be refused for ever, and all that comes after it would wait.
        log.error({ err: error }, 'the primary does not take what was pulled here: it is lost')
        onLost(batch.pulls.reduce((sum, { count }) => sum + count, 0))
        return batch.n
      },
    )
    // The disk is let go of: it is told again, and counts once.
    if (stopping.signal.aborted) return
    await pulls.acknowledge(counted).catch(onDiskFailed)
  }
  const send = async (link: Link, over: AbortSignal): Promise<void> => {
    over.addEventListener('abort', () => recorded.ring(), { once: true })
    for (let failures = 0; ;) {
      try {
        const batch = await nextBatch(over)
        if (batch === undefined) return
        await tell(batch, link)
        failures = 0
      } catch (err) {
        if (over.aborted) return
        if (failures === 0)
          log.warn({ err }, 'what was pulled here could not be told to the primary: it waits')
        const most = Math.min(longestPauseMs, pauseMs * 2 ** Math.min(failures, 10))
        failures++
        await delay((0.5 + Math.random() / 2) * most, undefined, { signal: over }).catch(ignore)
      }
    }
  }
  return {
    isReporting: () => statements.cursor !== undefined,
    count(pull) {
      if (statements.cursor === undefined) return
      tally.count(pull)
      if (timer === undefined) recordSoon()
    },
    sendOver: (link, signal) => void send(link, AbortSignal.any([signal, stopping.signal])),
    async close() {
      stopping.abort()
      await recordNow()
      clearTimeout(timer)
    },
  }
}

function reportOf({ log, n, pulls }: PullBatch, now: number): PullReport {
  return {
    log,
    n,
    pulls: pulls.map(({ repositoryId, digest, tag, count, lastAt }) => ({
      repositoryId,
      digest,
      ...(tag !== undefined && { tag }),
      count,
      agoMs: Math.max(0, now - lastAt),
    })),
  }
}

/** The last batch that is counted. @throws Error for what does not say that this one is */
function readAnswer(answer: unknown, { n }: PullBatch): number {
  const counted = (answer as Partial<PullReportAnswer> | null)?.n
  if (counted === undefined || !Number.isSafeInteger(counted) || counted < n)
    throw new Error('the primary does not say that it has counted what was pulled here')
  return counted
}

function ignore(): void {
  // The connection is over.
}
