import type { FillObserver, FillOptions } from './fill-options.ts'
import type { PieceStore } from './piece-store.ts'
import type { OpenedSink, SinkProgress } from './sink.ts'

export interface FillDiskDeps {
  readonly openSink: () => Promise<OpenedSink>
  readonly options: FillOptions
  readonly observer: FillObserver
}

/** A fill's dealings with its sink besides the bytes themselves: when to sync, what to remember, how to end. */
export interface FillDisk {
  /** Opens the sink; without one (the disk is full) the fill goes on. */
  open(): Promise<void>
  readonly opened: OpenedSink | undefined
  /** Whether the cache had the blob and has dropped it. */
  readonly isDropped: boolean
  /** Tells of a failure once: those that follow say nothing new. */
  failed(error: unknown): void
  /** So many bytes more are on disk: syncs and remembers now and then, in the background. */
  written(store: PieceStore, bytes: number): void
  /** The content is proved. @returns whether the blob is in the cache now */
  publish(store: PieceStore | undefined): Promise<boolean>
  /** The fill failed: what is here may serve a later one, unless it is worthless. */
  leave(store: PieceStore | undefined, worthless: boolean): Promise<void>
  close(): Promise<void>
}

export function createFillDisk({ openSink, options, observer }: FillDiskDeps): FillDisk {
  const background = new Set<Promise<void>>()
  let opened: OpenedSink | undefined
  let told = false
  let unsaved = 0
  let unsynced = 0

  function failed(error: unknown) {
    if (told) return
    told = true
    observer.diskFailed?.(error)
  }

  /** Runs beside the fill; one that fails costs the resume or the cache entry, no more. */
  function inBackground(work: Promise<void>, onError: (error: unknown) => void) {
    const tracked = work.catch(onError).finally(() => background.delete(tracked))
    background.add(tracked)
  }

  async function settle(store: PieceStore | undefined) {
    await store?.written()
    while (background.size > 0) await Promise.all(background)
  }

  const progressOf = (store: PieceStore): SinkProgress => ({
    size: store.pieces.size,
    held: store.pieces.onDisk(),
  })

  const discard = async () => opened?.sink.discard().catch(failed)

  return {
    failed,
    async open() {
      opened = await openSink().catch((error: unknown) => void failed(error))
    },
    get opened() {
      return opened
    },
    get isDropped() {
      return opened?.sink.isDropped?.() === true
    },
    written(store, bytes) {
      unsaved += bytes
      unsynced += bytes
      if (opened === undefined) return
      const { sink } = opened
      if (unsaved >= options.saveEveryBytes && sink.saveProgress !== undefined) {
        unsaved = 0
        inBackground(sink.saveProgress(progressOf(store)), failed)
      }
      if (unsynced >= options.syncEveryBytes) {
        unsynced = 0
        inBackground(sink.sync(), (error) => store.degrade(error))
      }
    },
    async publish(store) {
      await settle(store)
      if (opened === undefined) return false
      if (store?.degraded === false) {
        try {
          await opened.sink.commit(store.pieces.size)
          return true
        } catch (error) {
          failed(error)
        }
      }
      await discard()
      return false
    },
    async leave(store, worthless) {
      await settle(store)
      const empty = store === undefined || store.pieces.counted('disk') === 0
      if (worthless || empty || store.degraded) await discard()
      else await opened?.sink.saveProgress?.(progressOf(store)).catch(failed)
    },
    async close() {
      await opened?.sink.close()
    },
  }
}
