import { algorithmOf, type Digest } from '../oci/digest.ts'
import { SourceError } from '../stream/blob-source.ts'
import type { BufferPool } from '../stream/buffers.ts'
import type { Hasher } from '../stream/hasher.ts'
import { createBell, type Bell } from './bell.ts'
import { createBypass, type Bypass } from './bypass.ts'
import { createFillDisk, type FillDisk } from './fill-disk.ts'
import type { FillObserver, FillOptions, FillOutcome } from './fill-options.ts'
import {
  createFillReader,
  type FollowedFill,
  type OpenFillReader,
  type WantedPiece,
} from './fill-reader.ts'
import type { FillReader, FillStart } from './fills.ts'
import { startFrontier, type Frontier } from './frontier.ts'
import type { FillPriority, Lanes } from './lanes.ts'
import { createOwners, type Owners } from './owners.ts'
import type { PieceProof } from './piece-proof.ts'
import { createPieceStore, diskBit, type PieceStore, type ReadBack } from './piece-store.ts'
import { createStream, receivePieces, skipTo, type Receiving, type Stream } from './receive.ts'
import { maxFillBytes, pieceBytes, type Run } from './segments.ts'
import type { Extent } from './sink.ts'
import { createSourceOrder, type RankedSource, type SourceOrder } from './source-order.ts'
import { createSpreader, spreadBit, type Spread, type Spreader } from './spread.ts'
import { openTransfer, type Transfer } from './transfer.ts'
import { createTrust, type Trust } from './trust.ts'

/** What all fills of a process share. */
export interface FillDeps {
  readonly pool: BufferPool
  readonly hasher: Hasher
  readonly lanes: Lanes
  readonly readBack: ReadBack
  readonly options: FillOptions
  readonly observer: FillObserver
  /** Milliseconds, monotonic. */
  readonly now: () => number
}

/** Bytes or milliseconds between two wakings of the readers: more often costs more than it gives. */
const wakeBytes = 256 * 1024
const wakeMs = 20
/** How long distant readers wait for the front after all sources have failed them. */
const distantPauseMs = 5000

/**
 * One blob on its way here. Its states: opening (the size is not known yet) → filling, the front being hashed →
 * proved → published; or failed. A mismatch leads back to filling, with other sources.
 */
export class Fill implements FollowedFill {
  readonly digest: Digest
  /** Of everything that happens; who reads need not know who else comes and goes. */
  readonly #everything: Bell = createBell()
  readonly bell: Bell = createBell(this.#everything)
  readonly options: FillOptions
  readonly #deps: FillDeps
  readonly #order: SourceOrder
  readonly #trust: Trust
  readonly #disk: FillDisk
  readonly #owners: Owners
  readonly #controller = new AbortController()
  readonly #distant = new Set<Stream>()
  readonly #background = new Set<Promise<void>>()
  /** Requests that run, and at whom. */
  readonly #streams = new Map<Stream, string>()
  readonly #liars = new Set<string>()
  /** Who sent pieces that were proved wrong, each alone. */
  readonly #wrongSenders = new Set<string>()
  readonly #startedAt: number
  /** From somebody who is trusted; a source's word is not. */
  #trustedSize: number | undefined
  #priority: FillPriority
  /** A client of this edge, or of one behind it, has asked for it: the next one may. */
  #isForClients: boolean
  readonly #expectedSize: number | undefined
  readonly #readProof: FillStart['proof']
  /** By what each piece is proved alone. */
  #proof: PieceProof | undefined
  /** Until it has been tried. */
  #spread: Spread | undefined
  #homes: FillStart['homes']
  #partsOnly: boolean
  #spreader: Spreader | undefined
  #size: number | undefined
  /** Not only a claim of an earlier run: readers may hear it. */
  #sizeConfirmed: boolean
  #store: PieceStore | undefined
  #held: readonly Extent[] = []
  #frontier: Frontier | undefined
  #main: Stream | undefined
  /** Who sent a piece of the spread. */
  #neighbourOf: Spreader['senderOf'] = () => undefined
  /** Since when the request at the front waits for a place at its source. */
  #queuedSince: number | undefined
  #proved = false
  #isKept: boolean | undefined
  #stopped = false
  #failure: Error | undefined
  /** Another round is being prepared: what is here may be wrong, and goes. */
  #startingOver = false
  /** What is here hashes to something else. */
  #wrong = false
  #distantAfter = 0
  #received = 0
  #sinceWake = 0
  #wokenAt = 0

  constructor(start: FillStart, deps: FillDeps) {
    const { options, observer, lanes, now } = deps
    this.digest = start.digest
    this.options = options
    this.#deps = deps
    this.#priority = start.priority ?? 'client'
    this.#isForClients = isForClients(start)
    this.#trustedSize = start.size
    this.#expectedSize = start.expectedSize
    this.#spread = start.spread
    this.#homes = start.homes
    this.#partsOnly = start.partsOnly === true
    this.#readProof = start.proof
    this.#size = start.size
    this.#sizeConfirmed = start.size !== undefined
    this.#startedAt = now()
    this.#order = createSourceOrder(start.sources, { ...options, now, isFull: lanes.isFull })
    this.#trust = createTrust(this.#order, start.size !== undefined)
    this.#disk = createFillDisk({ openSink: start.openSink, options, observer })
    this.#owners = createOwners({
      budget: () =>
        this.#partsOnly || !this.#isForClients ? { ms: options.idleMs } : options.unowned,
      running: () => this.running,
      onSpent: () => this.#stop(parkedReason),
    })
  }

  /** Runs to the end: published, failed or parked. Never rejects; readers learn what happened. Call it once. */
  async run(): Promise<FillOutcome> {
    let outcome: FillOutcome
    try {
      await this.#prepareProof()
      await this.#openDisk()
      await this.#fillUntilProved()
      const stored = await this.#disk.publish(this.#store)
      // Whose bytes were others shows when the right ones are written over them.
      for (const name of this.#liars) this.#deps.observer.sourceLied?.(name, this.digest)
      this.#isKept = stored
      this.bell.ring()
      outcome = this.#outcome(stored ? 'stored' : 'unstored')
    } catch (error) {
      const parked = this.#controller.signal.reason === parkedReason
      this.#failure = parked
        ? new SourceError('unavailable', 'the fill was parked')
        : asError(error)
      outcome = this.#outcome(parked ? 'parked' : 'failed', parked ? undefined : error)
    }
    this.#owners.stop()
    this.#stop(new Error('the fill has ended'))
    await this.#settleBackground()
    await this.#frontier?.stop()
    if (this.#failure !== undefined) await this.#disk.leave(this.#store, this.#worthless)
    this.#deps.observer.ended?.(outcome)
    return outcome
  }

  /** Whether joining makes sense: it is running, or proved and still here. */
  get joinable(): boolean {
    if (this.#proved) return !this.#disk.isDropped
    return this.#failure === undefined && !this.#controller.signal.aborted
  }

  get proved(): boolean {
    return this.#proved
  }

  /** Still on its way to the proof. */
  get running(): boolean {
    return !this.#proved && this.#failure === undefined
  }

  /** Whether nobody wants all of it yet. */
  get partsOnly(): boolean {
    return this.#partsOnly
  }

  get readerCount(): number {
    return this.#owners.count
  }

  /** A joiner's sources stand behind those of the fill, and a client's haste counts for both. */
  joined(start: FillStart): void {
    this.#order.add(start.sources)
    if (start.priority !== 'prefetch') this.#priority = 'client'
    this.#isForClients ||= isForClients(start)
    if (this.#partsOnly && start.partsOnly !== true) {
      this.#partsOnly = false
      this.#spread = start.spread
      this.#homes = start.homes
    }
    this.#deps.observer.joined?.()
    this.#everything.ring()
  }

  /**
   * A reader once the size is known.
   * @throws SourceError, `busy` when no place at a source becomes free in time; the signal's reason
   */
  async openReader({
    signal,
    forEdge,
  }: Pick<FillStart, 'signal' | 'forEdge'>): Promise<FillReader> {
    const wake = () => this.#everything.ring()
    signal?.addEventListener('abort', wake, { once: true })
    const joined = this.#owners.join()
    const joinedAt = this.#deps.now()
    try {
      for (;;) {
        signal?.throwIfAborted()
        if (this.#failure !== undefined) throw this.#failure
        const store = this.#readableStore
        if (store !== undefined) {
          const reader = createFillReader(this, store, { forEdge })
          this.#owners.add(reader)
          return reader
        }
        await this.#waitInQueue(joinedAt)
      }
    } finally {
      joined()
      signal?.removeEventListener('abort', wake)
    }
  }

  /** Ends it where it is, for good: its readers fail. `run` then resolves. */
  abort(reason: Error): void {
    this.#stopped = true
    this.#owners.cut(reason)
    this.#stop(reason)
  }

  /** Waits until nobody reads it (not after `abort`), then lets go of memory and file. Call it once, after `run`. */
  async close(): Promise<void> {
    while (this.readerCount > 0 && !this.#stopped) await this.#everything.wait()
    await this.#store?.close()
    await this.#disk.close()
  }

  /** Until anything changes; while it has no place at a source only so long. @throws SourceError `busy` */
  async #waitInQueue(joinedAt: number): Promise<void> {
    if (this.#queuedSince === undefined) return this.#everything.wait()
    const { openTimeoutMs: retryAfterMs } = this.options
    const waited = this.#deps.now() - Math.max(this.#queuedSince, joinedAt)
    if (waited >= retryAfterMs)
      throw new SourceError('busy', 'too many requests are open there already', { retryAfterMs })
    await this.#pause(retryAfterMs - waited)
  }

  /** Once the size is more than a claim. An empty body is complete with its headers: the digest comes first then. */
  get #readableStore(): PieceStore | undefined {
    // Whoever came in after all readers were cut would get the wrong beginning, and the right end.
    if (this.#startingOver) return undefined
    if (this.#proved) return this.#store
    return this.#sizeConfirmed && this.#size !== 0 ? this.#store : undefined
  }

  // --- what a reader sees of it

  /** How far readers may read. */
  get readableBytes(): number {
    const size = this.#store?.pieces.size ?? 0
    return this.#proved ? size : Math.max(size - this.options.withheldBytes, 0)
  }

  get isKept(): boolean | undefined {
    return this.#isKept
  }

  get failure(): Error | undefined {
    return this.#failure
  }

  left(reader: OpenFillReader): void {
    this.#owners.remove(reader)
    this.#everything.ring()
  }

  createBypass(): Bypass {
    const { pool, lanes, observer } = this.#deps
    return createBypass({
      size: this.#store?.pieces.size ?? 0,
      pool,
      lanes,
      candidates: () => {
        const able = this.#order.candidates()
        return able.length > 0 ? able : this.#order.wholes()
      },
      ...this.options,
      onBytes: (source, count) => observer.received?.(source.blob.name, count),
    })
  }

  /** A reader waits for this piece: if the front is far, a request of its own brings it. */
  want({ piece, end, isHome }: WantedPiece): void {
    const store = this.#store
    if (store?.isUnproved(piece) === true && store.pieces.get(piece) === 'disk')
      return this.#inBackground(store.proveHeld(piece))
    if (store === undefined || store.degraded || store.pieces.get(piece) !== 'missing') return
    if (this.#controller.signal.aborted || this.#distant.size >= this.options.maxDistant) return
    const spreader = this.#spreader
    // One that is asked in a home's place asks that home itself first, or each would bring it from above.
    if (spreader !== undefined && !(isHome && spreader.isOwn(piece)))
      return spreader.want(piece, isHome)
    const isComing = spreader === undefined && !this.#partsOnly && this.isNear(piece)
    if (isComing || this.#deps.now() < this.#distantAfter) return
    const run = spreader?.missingFrom(piece) ?? store.pieces.distantRun(piece)
    const wanted = this.#partsOnly ? { ...run, end: Math.min(run.end, end) } : run
    this.#inBackground(this.#runDistant(store, wanted))
  }

  /** Whether the front comes to this piece soon. */
  isNear(piece: number): boolean {
    const front = this.#main?.piece ?? this.#store?.pieces.missingRun()?.first ?? piece
    // It may be about to leave its piece: who follows it to the byte is not far from it for that.
    return piece >= front && (piece - front - 1) * pieceBytes <= this.options.distantBytes
  }

  // --- opening

  /** The list of pieces says the size, too, and is believed. */
  async #prepareProof(): Promise<void> {
    const proof = await this.#readProof?.()
    if (proof === undefined || proof.size !== (this.#size ?? proof.size)) {
      if (this.#partsOnly)
        throw new SourceError('absent', 'its pieces cannot be proved here one by one')
      return
    }
    this.#proof = proof
    this.#size = proof.size
    this.#trustedSize = proof.size
    if (!this.#partsOnly) return
    // Nobody is asked before a reader has asked for something; then the list of sources must have been read.
    await this.#order.next()
    this.#sizeConfirmed = true
  }

  async #openDisk(): Promise<void> {
    await this.#disk.open()
    this.#held = this.#disk.opened?.held ?? []
    this.#size ??= this.#disk.opened?.size ?? this.#expectedSize
    if (this.#size !== undefined) await this.#createStore(this.#size)
  }

  async #createStore(size: number): Promise<PieceStore> {
    let sink = this.#disk.opened?.sink
    try {
      if (!this.#partsOnly) await sink?.reserve?.(size)
    } catch (error) {
      this.#disk.failed(error)
      sink = undefined
    }
    const store: PieceStore = createPieceStore({
      size,
      pool: this.#deps.pool,
      bell: this.bell,
      sink,
      held: sink === undefined ? [] : this.#held,
      ...this.options,
      readBack: this.#deps.readBack,
      proof: this.#proof,
      onWrong: (piece, sender) => this.#pieceWrong(piece, sender),
      onDropped: (piece) => this.#owners.cut(dropped, piece),
      onProofFailed: (error) => this.#stop(asError(error)),
      onDiskFailure: (error) => this.#diskFailed(error),
      onWritten: (bytes) => this.#disk.written(store, bytes),
    })
    this.#held = []
    this.#size = size
    this.#store = store
    this.#startHash(store)
    this.bell.ring()
    return store
  }

  #startHash(store: PieceStore) {
    const hash = this.#deps.hasher.start(algorithmOf(this.digest), store.pieces.size)
    this.#frontier = startFrontier(store, hash, this.bell)
  }

  // --- filling

  async #fillUntilProved(): Promise<void> {
    for (;;) {
      let mismatch: SourceError
      try {
        if ((await this.#fillOnce()) === this.digest) break
        if (this.#proof !== undefined) throw this.#misled()
        mismatch = new SourceError('broken', `the content is not ${this.digest}`)
      } catch (error) {
        const { aborted } = this.#controller.signal
        const isFinal = aborted || this.#proof !== undefined || !this.#trust.mayStartOver()
        if (!(error instanceof SourceError) || isFinal) throw error
        mismatch = error
      }
      this.#startingOver = true
      await this.#startOver(mismatch)
      this.#startingOver = false
      this.bell.ring()
    }
    this.#proved = true
    this.bell.ring()
  }

  /** Fetches what it can of all of it together with others. */
  async #spreadOut(): Promise<void> {
    const { signal } = this.#controller
    const store = this.#store
    const homes = store && this.#proof && this.#homes?.(store.pieces.size)
    const spread = this.#spread ?? homes
    this.#spread = undefined
    this.#homes = undefined
    if (spread === undefined || store === undefined || store.degraded) return
    // Reads the list of sources.
    await this.#order.next()
    const spreader = createSpreader({
      spread,
      store,
      signal,
      bell: this.#everything,
      own: () => this.#order.candidates(),
      fetch: (source, stream) => this.#transfer(source, stream),
      onFailed: (name, error) => this.#deps.observer.sourceFailed?.(name, error),
      patienceMs: this.options.patienceMs,
      now: this.#deps.now,
    })
    this.#spreader = spreader
    try {
      await spreader.run()
    } finally {
      this.#spreader = undefined
      this.#neighbourOf = (piece) => spreader.senderOf(piece)
    }
  }

  /** While only parts are, what readers ask for brings those; all may come that way. */
  async #untilAllIsWanted(): Promise<void> {
    if (!this.#partsOnly) return
    while (this.#partsOnly && this.#frontier?.done !== true) {
      this.#controller.signal.throwIfAborted()
      // Parts are kept on it; whoever asked for one here asks the next one.
      if (this.#store?.degraded === true)
        throw new SourceError('unavailable', 'there is no disk to keep parts on')
      await this.#everything.wait()
    }
    const size = this.#store?.pieces.size ?? 0
    await this.#disk.opened?.sink.reserve?.(size).catch((error: unknown) => this.#diskFailed(error))
  }

  /** One round: fetches what is missing until the front has reached the end. */
  async #fillOnce(): Promise<Digest> {
    const { signal } = this.#controller
    await this.#untilAllIsWanted()
    await this.#spreadOut()
    while (this.#frontier?.done !== true) {
      signal.throwIfAborted()
      const run = this.#store === undefined ? wholeBlob : this.#store.pieces.missingRun()
      if (run === undefined) await this.#everything.wait()
      else await this.#runMain(run)
    }
    return this.#frontier.digest
  }

  /** The request at the front: open-ended, unless what follows is here or on its way. */
  async #runMain(run: Run): Promise<void> {
    const { source, waitMs } = await this.#order.next()
    // Others may bring some of the run meanwhile: plan again after the pause.
    if (waitMs > 0) return this.#pause(waitMs)
    const stream = createStream(run, true)
    this.#main = stream
    try {
      await this.#transfer(source, stream)
    } catch (error) {
      if (stream.controller.signal.aborted && !this.#controller.signal.aborted) return
      if (!(error instanceof SourceError)) throw error
      this.#order.failed(source, error, stream.received)
      this.#deps.observer.sourceFailed?.(source.blob.name, error)
    } finally {
      this.#main = undefined
      this.bell.ring()
    }
  }

  /** Until the time is over or anything changes. */
  async #pause(ms: number): Promise<void> {
    const timer = setTimeout(() => this.#everything.ring(), ms)
    await this.#everything.wait()
    clearTimeout(timer)
  }

  /** A request for a distant reader; its pieces are kept like any other. */
  async #runDistant(store: PieceStore, run: Run): Promise<void> {
    const { signal } = this.#controller
    const stream = createStream(run, false)
    this.#distant.add(stream)
    for (let piece = run.first; piece < run.end; piece++) store.pieces.set(piece, 'coming')
    try {
      for (const source of this.#order.candidates()) {
        try {
          return await this.#transfer(source, stream)
        } catch (error) {
          if (!(error instanceof SourceError) || signal.aborted) throw error
          this.#deps.observer.sourceFailed?.(source.blob.name, error)
          if (stream.controller.signal.aborted) throw error
        }
      }
      this.#distantAfter = this.#deps.now() + distantPauseMs
      // Whoever asked for it here asks the next one.
      if (this.#partsOnly) this.#stop(new SourceError('unavailable', 'no source gives the part'))
    } catch (error) {
      // Ended from outside: by the fill's end or a failed disk. The front brings the rest.
      if (!signal.aborted && !stream.controller.signal.aborted) throw error
    } finally {
      this.#distant.delete(stream)
      for (let piece = stream.piece; piece < run.end; piece++) store.abandon(piece, false)
      this.bell.ring()
    }
  }

  /** Asks one source for the stream's pieces and receives them. @throws SourceError */
  async #transfer(source: RankedSource, stream: Stream): Promise<void> {
    const { pool } = this.#deps
    const signal = AbortSignal.any([this.#controller.signal, stream.controller.signal])
    const leave = await this.#enterLane(source, stream, signal)
    this.#streams.set(stream, source.blob.name)
    let transfer: Transfer | undefined
    let complete = false
    try {
      const openEnded = stream.end >= (this.#store?.pieces.count ?? 0)
      const offset = this.#store?.offsetOf(stream.piece) ?? 0
      const end = openEnded ? undefined : stream.end * pieceBytes
      transfer = await openTransfer(source.blob, { offset, end, signal, ...this.options })
      const store = await this.#adopt(source, transfer)
      stream.end = Math.min(stream.end, store.pieces.count)
      const onBytes = (count: number, done: boolean) => this.#arrived(source, count, done)
      const receiving: Receiving = { source, transfer, stream, signal, onBytes }
      await skipTo(offset, receiving, pool)
      await receivePieces(receiving, store)
      complete = stream.piece === stream.end
    } catch (error) {
      if (error instanceof SourceError && error.beyondEnd) source.disputesSize = true
      throw error
    } finally {
      this.#streams.delete(stream)
      await transfer?.close(complete)
      leave()
    }
  }

  async #enterLane(source: RankedSource, { piece, atFront }: Stream, signal: AbortSignal) {
    const { lanes, now } = this.#deps
    // Whoever waits for a place may not keep memory meanwhile: those inside may be waiting for that.
    if (!lanes.hasRoom(source.blob.name)) this.#store?.releasePartial(piece)
    const entering = lanes.enter(source.blob.name, this.#priority, signal)
    if (!atFront) return entering
    this.#queuedSince = now()
    try {
      // Whoever waits already has to look at the clock from now on.
      this.bell.ring()
      return await entering
    } finally {
      this.#queuedSince = undefined
    }
  }

  /** Takes the size that a source says, or holds it against the one that is known. */
  async #adopt(source: RankedSource, transfer: Transfer): Promise<PieceStore> {
    const size = transfer.size ?? this.#size
    if (size === undefined) throw new SourceError('broken', `${source.blob.name} says no length`)
    if (size > maxFillBytes)
      throw new SourceError(
        'broken',
        `${source.blob.name} says ${size} bytes, more than any blob has`,
      )
    if (this.#size !== undefined && this.#size !== size) {
      source.disputesSize = true
      const message = `${source.blob.name} says ${size} bytes where ${this.#size} are expected`
      throw new SourceError('broken', message)
    }
    this.#order.started()
    const store = this.#store ?? (await this.#createStore(size))
    if (!this.#sizeConfirmed) {
      this.#sizeConfirmed = true
      this.bell.ring()
    }
    return store
  }

  #arrived(source: RankedSource, count: number, complete: boolean) {
    this.#received += count
    this.#deps.observer.received?.(source.blob.name, count)
    this.#owners.received(count)
    this.#sinceWake += count
    const at = this.#deps.now()
    if (!complete && this.#sinceWake < wakeBytes && at - this.#wokenAt < wakeMs) return
    this.#sinceWake = 0
    this.#wokenAt = at
    this.bell.ring()
  }

  // --- when things turn out wrong

  /** It is missing again, and goes to whoever is next; who sent it is not asked again. */
  #pieceWrong(piece: number, sender: string | undefined) {
    const { observer } = this.#deps
    observer.pieceWrong?.(sender)
    if (sender === undefined) return this.bell.ring()
    if (!this.#wrongSenders.has(sender)) observer.sourceLied?.(sender, this.digest)
    this.#wrongSenders.add(sender)
    const error = new SourceError('broken', `${sender} sent other bytes than piece ${piece} has`)
    const source = this.#order.all.find(({ blob }) => blob.name === sender)
    if (source !== undefined) this.#order.lied(source, error)
    this.#spreader?.lied(sender)
    for (const [stream, name] of this.#streams) if (name === sender) stream.controller.abort(error)
    this.bell.ring()
  }

  /** Nobody's fault of those who sent it. */
  #misled(): SourceError {
    this.#wrong = true
    this.#deps.observer.piecesMisled?.(this.digest)
    return new SourceError(
      'broken',
      `the content is not ${this.digest}, though each of its pieces is as listed`,
    )
  }

  /**
   * Cuts all readers, since what they got may be wrong, and begins another round with what is still believed.
   * @throws the failure when nothing is left to try
   */
  async #startOver(failure: SourceError): Promise<void> {
    this.#owners.cut(failure)
    await this.#stopDistant()
    const hashedAll = this.#frontier?.done === true
    await this.#frontier?.stop()
    const store = this.#store
    await store?.written()
    const senders = store?.deliveredBy.reduce((mask, bits) => mask | bits, 0) ?? 0
    // Only a round that reached its end says anything about who sent it.
    const wrong = hashedAll ? senders : 0
    this.#wrong ||= hashedAll
    const liar = this.#trust.soleSender(wrong)
    if (liar !== undefined) this.#deps.observer.sourceLied?.(liar.blob.name, this.digest)
    const next = this.#trust.next(wrong)
    if (next === undefined) throw failure
    if (next.kind === 'without-disk') {
      if (store !== undefined) this.#restart(store, (sentBy) => (sentBy & diskBit) !== 0)
      return
    }
    const { source, again } = next
    // Its word counts now, also when it is another than before.
    const mayDiffer = source.disputesSize || (source.bit & senders) === 0
    this.#order.restrictTo([source])
    if (store === undefined) return
    if (this.#trustedSize === undefined && mayDiffer) await this.#forgetSize(store)
    else this.#restart(store, (sentBy) => again || sentBy !== source.bit)
  }

  /** Another source may say another size: everything begins anew. */
  async #forgetSize(store: PieceStore): Promise<void> {
    await store.close()
    this.#store = undefined
    this.#frontier = undefined
    this.#size = undefined
    this.#sizeConfirmed = false
  }

  /** Whether what is here is of no use to a later run, which would only meet the same end. */
  get #worthless(): boolean {
    // Each piece that is here was proved.
    if (this.#proof !== undefined) return this.#wrong
    const isBroken = this.#failure instanceof SourceError && this.#failure.code === 'broken'
    return this.#wrong || isBroken
  }

  #restart(store: PieceStore, isDoubtful: (sentBy: number) => boolean) {
    const differs = (piece: number, sentBy: number) => {
      const isNeighbours = sentBy === spreadBit
      const liar = isNeighbours
        ? this.#neighbourOf(piece)
        : this.#trust.soleSender(sentBy)?.blob.name
      if (liar !== undefined) this.#liars.add(liar)
    }
    store.drop((piece) => isDoubtful(store.deliveredBy[piece] ?? 0), differs)
    this.#startHash(store)
  }

  /** Without a disk only the front can be kept: it begins again at the lowest piece that is missing. */
  #diskFailed(error: unknown) {
    this.#disk.failed(error)
    for (const stream of this.#distant) stream.controller.abort(replanned)
    this.#main?.controller.abort(replanned)
    this.bell.ring()
  }

  #stop(reason: Error) {
    this.#controller.abort(reason)
    this.bell.ring()
  }

  #inBackground(work: Promise<void>) {
    const tracked = work
      .catch((error: unknown) => this.#stop(asError(error)))
      .finally(() => this.#background.delete(tracked))
    this.#background.add(tracked)
  }

  async #settleBackground(): Promise<void> {
    while (this.#background.size > 0) await Promise.all(this.#background)
  }

  async #stopDistant(): Promise<void> {
    for (const stream of this.#distant) stream.controller.abort(replanned)
    this.bell.ring()
    await this.#settleBackground()
  }

  #outcome(kind: FillOutcome['kind'], error?: unknown): FillOutcome {
    return {
      kind,
      digest: this.digest,
      size: this.#size,
      receivedBytes: this.#received,
      ms: this.#deps.now() - this.#startedAt,
      error,
    }
  }
}

/** What is fetched ahead, and what neighbours ask for, has nobody who comes again if they let go of it. */
function isForClients({ priority, forEdge }: FillStart): boolean {
  return priority !== 'prefetch' && (forEdge === undefined || forEdge === 'relay')
}

const wholeBlob: Run = { first: 0, end: Infinity }
const parkedReason = new Error('nobody reads the fill and its budget is spent')
const dropped = new SourceError('unavailable', 'bytes that were on their way are not right')
const replanned = new Error('the request is no longer the right one')

function asError(error: unknown): Error {
  return error instanceof Error ? error : new Error(String(error))
}
