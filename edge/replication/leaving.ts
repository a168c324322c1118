import type { Registration } from '../../shared/discovery/registration.ts'
import type { Logger } from '../../shared/observability/log.ts'

/** Whether this edge is to leave, as the primary's roster says, and what follows from that. */
export interface Leaving {
  readonly isLeaving: boolean
  /** The roster says something else. */
  look(): void
  /** Takes this edge off Consul's list for good. Called again, it waits for the same. */
  close(): Promise<void>
}

export interface LeavingDeps {
  /** What the roster says of this edge now. */
  readonly isDraining: () => boolean
  /** Puts this edge on Consul's list. */
  readonly register: () => Promise<Registration>
  /** Requests that are being answered. */
  readonly transfers: () => number
  /** Told when the primary should hear: it leaves, stays, or is done. */
  readonly onNews: () => void
  readonly log: Logger
  readonly lookMs?: number
}

/** How often an edge that leaves looks whether all is sent. */
const defaultLookMs = 1000

/**
 * Puts this edge on Consul's list, and takes it off while it leaves. Whoever comes all the same is served.
 * @throws what `register` throws the first time
 */
export async function createLeaving({
  isDraining,
  register,
  transfers,
  onNews,
  log,
  lookMs = defaultLookMs,
}: LeavingDeps): Promise<Leaving> {
  let isLeaving = isDraining()
  let registration = isLeaving ? undefined : await register()
  let isDone = false
  let timer: NodeJS.Timeout | undefined
  let turn = Promise.resolve()
  let closed: Promise<void> | undefined

  /** One after another: Consul must end up with what was said last. */
  const settle = async (): Promise<void> => {
    if (isLeaving || closed !== undefined) {
      await registration?.close()
      registration = undefined
    } else registration ??= await register()
  }
  const settleInTurn = (): Promise<void> =>
    (turn = turn
      .then(settle)
      .catch((err: unknown) =>
        log.warn({ err }, 'Consul could not be told whether this edge leaves'),
      ))
  const watch = (): void => {
    clearInterval(timer)
    isDone = transfers() === 0
    if (!isLeaving || closed !== undefined) return
    timer = setInterval(() => {
      const wasDone = isDone
      isDone = transfers() === 0
      if (isDone === wasDone) return
      if (isDone) log.info('nothing is being sent any more: this edge may be stopped')
      onNews()
    }, lookMs).unref()
  }
  watch()

  return {
    get isLeaving() {
      return isLeaving
    },
    look() {
      const wasLeaving = isLeaving
      isLeaving = isDraining()
      if (isLeaving === wasLeaving || closed !== undefined) return
      log.info(
        isLeaving
          ? 'this edge drains: nobody is sent here any more, and who comes is served'
          : 'this edge serves again',
      )
      void settleInTurn()
      watch()
      onNews()
    },
    close() {
      closed ??= (async () => {
        clearInterval(timer)
        await turn
        await registration?.close()
      })()
      return closed
    },
  }
}
