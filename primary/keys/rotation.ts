import type { Logger } from '../../shared/observability/log.ts'
import type { CurrentKeys } from '../events/current-keys.ts'
import type { HighWater } from '../events/high-water.ts'
import type { Deed } from '../store/audit.ts'
import type { KeyInfo, KeyPurpose, KeyRotation } from '../store/key-rotation.ts'
import type { EpochOptions, LogState } from '../store/log-mark.ts'

export interface RotationDeps {
  readonly store: KeyRotation
  readonly keys: Pick<CurrentKeys, 'refresh'>
  readonly highWater: Pick<HighWater, 'state' | 'accept' | 'behind'>
  /** How long a key is told of before it signs. Milliseconds. */
  readonly aheadMs: number
  /** How long events are kept, with the signatures over them. Milliseconds. */
  readonly retainMs: number
  readonly log: Logger
  /** Epoch ms. */
  readonly now: () => number
}

/** A key, and when it signs. */
export interface RotatedKey {
  readonly key: KeyInfo
  /** Undefined where it does already, or where that is not known yet. */
  readonly signsFrom: Date | undefined
  /** Whether a root that is kept offline must name it first. */
  readonly waitsForRoot: boolean
}

/** The keys of an installation, and the epoch of its log. */
export interface Rotation {
  list(): Promise<readonly KeyInfo[]>
  /**
   * Makes the next key of a purpose.
   * @param options.atOnce it signs from now on, for one that was stolen: what does not know it yet refuses it for seconds
   * @throws ApiError CONFLICT, PRECONDITION
   */
  rotate(
    purpose: KeyPurpose,
    options: { readonly atOnce: boolean },
    deed: Deed,
  ): Promise<RotatedKey>
  /** Ends a key that does not sign. @throws ApiError NOT_FOUND, PRECONDITION */
  drop(id: string, deed: Deed): Promise<void>
  log(): Promise<LogState>
  /** Has the log go on, in a new epoch. @throws ApiError CONFLICT, and what an offline root is refused for */
  acceptEpoch(options: EpochOptions, deed: Deed): Promise<LogState>
  /** Has keys sign and be forgotten in their time, for as long as it runs. @returns how to stop */
  start(): () => Promise<void>
}

const dayMs = 86_400_000
/** How long what a key signed counts. Refresh tokens count for 30 days, an edge's certificate for 90. */
const keepMs = (retainMs: number): readonly (readonly [KeyPurpose, number])[] => [
  ['jwt', 31 * dayMs],
  ['log', retainMs + dayMs],
  ['ca', 91 * dayMs],
]
const longestMs = 30_000

export function createRotation({
  store,
  keys,
  highWater,
  aheadMs,
  retainMs,
  log,
  now,
}: RotationDeps): Rotation {
  const tend = async (): Promise<void> => {
    // A database that was restored is not changed by itself.
    if (highWater.behind() !== undefined) return
    const time = now()
    const at = new Date(time)
    const all = await store.list()
    const before = (age: number) => new Date(time - age)
    const isDue = (state: KeyInfo['state'], age: number, purpose?: KeyPurpose) =>
      all.some(
        (key) =>
          key.state === state &&
          key.purpose !== 'root' &&
          key.changedAt <= before(age) &&
          (purpose === undefined || key.purpose === purpose),
      )
    let changed = false
    if (isDue('next', aheadMs)) changed = await store.promote(before(aheadMs), at)
    for (const [purpose, age] of keepMs(retainMs))
      if (isDue('retired', age, purpose))
        changed = (await store.forget(purpose, before(age), at)) || changed
    if (changed) await keys.refresh()
  }
  const isOffline = async (): Promise<boolean> =>
    (await store.list()).some(
      (key) => key.purpose === 'root' && key.state === 'active' && key.isOffline,
    )
  return {
    list: () => store.list(),
    async rotate(purpose, options, deed) {
      const key =
        purpose === 'root'
          ? await store.replaceRoot(deed)
          : await store.begin(purpose, options, deed)
      await keys.refresh()
      const waitsForRoot =
        key.purpose === 'root' ? key.state === 'next' : key.purpose !== 'jwt' && (await isOffline())
      const isLater = key.state === 'next' && !waitsForRoot
      const signsFrom = isLater ? new Date(key.changedAt.getTime() + aheadMs) : undefined
      return { key, signsFrom, waitsForRoot }
    },
    async drop(id, deed) {
      await store.drop(id, deed)
      await keys.refresh()
    },
    log: () => highWater.state(),
    acceptEpoch: (options, deed) => highWater.accept(options, deed, () => keys.refresh()),
    start() {
      let running: Promise<void> = Promise.resolve()
      let failing = false
      const timer = setInterval(
        () => {
          running = running.then(tend).then(
            () => {
              failing = false
            },
            (err: unknown) => {
              if (!failing) log.error({ err }, 'the keys could not be looked after')
              failing = true
            },
          )
        },
        Math.min(longestMs, Math.max(100, aheadMs / 4)),
      ).unref()
      return async () => {
        clearInterval(timer)
        await running
      }
    },
  }
}
