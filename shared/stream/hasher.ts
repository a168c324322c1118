import { createHash } from 'node:crypto'
import { Worker } from 'node:worker_threads'
import { digestFromHex, type Digest, type DigestAlgorithm } from '../oci/digest.ts'
import type { HashAnswer, HashRequest } from './hash-worker.ts'

/** Hashes big content on one worker thread, and small content at once on this one. */
export interface Hasher {
  /**
   * Begins a hash. `sizeBytes` decides where it runs: under 8 MiB the hop to the worker costs more than the
   * hash; unknown counts as big.
   */
  start(algorithm: DigestAlgorithm, sizeBytes: number | undefined): RunningHash
  /** Ends the worker; hashes that run there fail. */
  close(): Promise<void>
}

/** One hash. Updates are taken in the order of the calls, waiting for none is needed between them. */
export interface RunningHash {
  /**
   * Resolves when the bytes are hashed and may be overwritten. On the worker they must lie in shared memory
   * (a pooled buffer), else they are copied there.
   */
  update(bytes: Buffer): Promise<void>
  /** The digest of everything that was given to `update` before. Ends the hash. */
  digest(): Promise<Digest>
  /** Ends the hash without a result. */
  drop(): void
}

export interface HasherOptions {
  /** Sizes from here on are hashed on the worker. */
  readonly workerFromBytes?: number
}

/** `main.ts` makes one for all fills and closes it. The thread starts with the first big hash. */
export function createHasher({ workerFromBytes = 8 * 1024 * 1024 }: HasherOptions = {}): Hasher {
  let thread: HashThread | undefined
  let states = 0
  return {
    start(algorithm, sizeBytes = Infinity) {
      if (sizeBytes < workerFromBytes) return startHere(algorithm)
      if (thread === undefined || thread.dead) thread = startThread()
      return startThere(thread, ++states, algorithm)
    },
    async close() {
      await thread?.close()
    },
  }
}

function startHere(algorithm: DigestAlgorithm): RunningHash {
  const hash = createHash(algorithm)
  return {
    async update(bytes) {
      hash.update(bytes)
    },
    async digest() {
      return digestFromHex(algorithm, hash.digest('hex'))
    },
    drop() {},
  }
}

function startThere(thread: HashThread, state: number, algorithm: DigestAlgorithm): RunningHash {
  thread.post({ kind: 'start', state, algorithm })
  return {
    async update(bytes) {
      await thread.ask({ kind: 'update', state, bytes })
    },
    async digest() {
      return digestFromHex(algorithm, (await thread.ask({ kind: 'finish', state })) ?? '')
    },
    drop() {
      thread.post({ kind: 'drop', state })
    },
  }
}

interface HashThread {
  readonly dead: boolean
  post(request: HashRequest): void
  /** The thread answers in the order of asking. */
  ask(request: HashRequest): Promise<HashAnswer>
  close(): Promise<void>
}

function startThread(): HashThread {
  const extension = import.meta.url.endsWith('.ts') ? 'ts' : 'js'
  const worker = new Worker(new URL(`./hash-worker.${extension}`, import.meta.url))
  // Whoever waits for a hash keeps the process alive by its sockets and timers; the idle thread must not.
  worker.unref()
  const asked: { resolve: (answer: HashAnswer) => void; reject: (error: Error) => void }[] = []
  let failure: Error | undefined
  const fail = (error: Error) => {
    failure ??= error
    for (const waiter of asked.splice(0)) waiter.reject(failure)
  }
  worker.on('message', (answer: HashAnswer) => asked.shift()?.resolve(answer))
  worker.on('error', (cause) => fail(new Error('the hash thread failed', { cause })))
  worker.on('exit', () => fail(new Error('the hash thread ended')))
  return {
    get dead() {
      return failure !== undefined
    },
    post(request) {
      if (failure === undefined) worker.postMessage(request)
    },
    ask(request) {
      return new Promise((resolve, reject) => {
        if (failure !== undefined) return reject(failure)
        asked.push({ resolve, reject })
        worker.postMessage(request)
      })
    },
    async close() {
      await worker.terminate()
    },
  }
}
