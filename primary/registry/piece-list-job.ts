import type { Logger } from '../../shared/observability/log.ts'
import { createHasher } from '../../shared/stream/hasher.ts'
import { listPieces, type ListPiecesDeps } from './piece-lists.ts'

export interface PieceListJobDeps extends Pick<
  ListPiecesDeps,
  'records' | 'blobs' | 'from' | 'primaryId'
> {
  /** Asks for one run, by whichever primary; several that wait are one. */
  readonly ask: () => Promise<unknown>
  /** Does the runs that are for this primary from now on. */
  readonly work: (run: () => Promise<void>) => Promise<unknown>
  /** Told when a blob has its list. */
  readonly onListed: () => void
  readonly log: Logger
}

/** A job begins with no other blob after so long: the queue takes one that runs for a quarter of an hour for lost. */
const pieceListMs = 120_000

/** Lists pieces in a job that goes on where it was, whichever primary takes it. */
export function createPieceListJob({ ask, work, from, onListed, log, ...deps }: PieceListJobDeps) {
  const stopping = new AbortController()
  let running: Promise<unknown> = Promise.resolve()
  const send = (): void => {
    ask().catch((err: unknown) => {
      // The next one that is pushed, or the next start, asks again.
      if (!stopping.signal.aborted) log.warn({ err }, 'the list of a blob has to wait')
    })
  }
  const list = async (): Promise<void> => {
    const hasher = createHasher()
    try {
      const isDone = await listPieces(
        {
          ...deps,
          hasher,
          from,
          onListed(digest) {
            log.info({ digest }, 'a blob can be proved piece by piece')
            onListed()
          },
          onFailed: (digest, err) =>
            log.error({ digest, err }, 'the pieces of a blob could not be listed'),
          now: () => new Date(),
        },
        { signal: stopping.signal, maxMs: pieceListMs },
      )
      if (!isDone && !stopping.signal.aborted) send()
    } finally {
      await hasher.close()
    }
  }
  return {
    /** Bytes of a blob came. */
    received(bytes: number) {
      if (bytes >= from) send()
    },
    /** Smaller ones are to be listed, too. */
    wanted: send,
    /** Begins to take jobs. @returns how to stop */
    start(): () => Promise<void> {
      work(() => {
        const listing = list()
        running = listing.catch(() => undefined)
        return listing
      })
        .then(send)
        .catch((err: unknown) => log.debug({ err }, 'no pieces are listed: the primary stops'))
      return async () => {
        stopping.abort()
        await running
      }
    },
  }
}
