import type { Digest } from '../oci/digest.ts'
import type { RunningHash } from '../stream/hasher.ts'
import type { Bell } from './bell.ts'
import type { PieceStore } from './piece-store.ts'

/** The hash that runs over the contiguous front of a fill. */
export interface Frontier {
  /** Whether `digest` has settled. */
  readonly done: boolean
  /** The digest of the whole blob, as it is here. */
  readonly digest: Promise<Digest>
  /** Ends it early, for a new round. */
  stop(): Promise<void>
}

/** Pieces that may wait at the hash at once. */
const maxInFlight = 4

/** Begins to hash the pieces in order, each as soon as it is complete. Rings the bell when it is done. */
export function startFrontier(store: PieceStore, hash: RunningHash, bell: Bell): Frontier {
  const controller = new AbortController()
  let done = false
  const digest = hashAll(store, hash, { bell, signal: controller.signal }).finally(() => {
    done = true
    bell.ring()
  })
  const settled = digest.then(
    () => undefined,
    () => undefined,
  )
  return {
    get done() {
      return done
    },
    digest,
    async stop() {
      controller.abort(new Error('the hash was stopped'))
      bell.ring()
      await settled
    },
  }
}

async function hashAll(
  store: PieceStore,
  hash: RunningHash,
  { bell, signal }: { readonly bell: Bell; readonly signal: AbortSignal },
): Promise<Digest> {
  const inFlight = new Set<Promise<unknown>>()
  const { pieces } = store
  try {
    for (let piece = 0; piece < pieces.count;) {
      signal.throwIfAborted()
      const state = pieces.get(piece)
      if (state === 'missing' || state === 'coming') {
        await bell.wait()
        continue
      }
      const current = piece
      const fromMemory = store.inMemory(piece)
      const hashing = store
        .withPiece(piece, (bytes) => hash.update(bytes))
        .then((found) => {
          if (found) store.hashed(current)
          return found
        })
      if (!fromMemory) {
        // Read back: the next update must not overtake it.
        if (await hashing) piece++
        continue
      }
      inFlight.add(hashing)
      hashing.finally(() => inFlight.delete(hashing)).catch(() => undefined)
      if (inFlight.size >= maxInFlight) await Promise.race(inFlight)
      piece++
    }
    await Promise.all(inFlight)
    return await hash.digest()
  } catch (error) {
    await Promise.allSettled(inFlight)
    hash.drop()
    throw error
  }
}
