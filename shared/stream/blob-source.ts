/**
 * Why a far side did not give what was asked:
 * `absent` it says that it has no such thing (404) · `refused` it wants other credentials (401, 403) ·
 * `busy` it wants us to come back later (429) · `unavailable` no useful answer (5xx, network, timeout, stall) ·
 * `broken` it answers what cannot be right (wrong digest, length, encoding, range).
 */
export type SourceErrorCode = 'absent' | 'refused' | 'busy' | 'unavailable' | 'broken'

export interface SourceErrorOptions {
  /** How long the far side asked to be left alone, in milliseconds. */
  readonly retryAfterMs?: number | undefined
  /** It says that the blob ends before the range that was asked for (416): the size we know is not its. */
  readonly beyondEnd?: boolean
  /** Nothing came back, or somebody in front of it said that it is away (502, 503, 504). */
  readonly isAway?: boolean
  /** Ids of others that it says to ask instead: a claim, of use only to whoever knows them. */
  readonly instead?: readonly string[] | undefined
  /** Who may be asked instead, before whoever comes next. */
  readonly others?: readonly BlobSource[]
  readonly cause?: unknown
}

/** A far side's failure, told apart by `code`; the message holds no secret and no URL with a query. */
export class SourceError extends Error {
  readonly code: SourceErrorCode
  readonly retryAfterMs: number | undefined
  readonly beyondEnd: boolean
  readonly isAway: boolean
  readonly instead: readonly string[] | undefined
  readonly others: readonly BlobSource[]

  constructor(code: SourceErrorCode, message: string, options: SourceErrorOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause })
    this.name = 'SourceError'
    this.code = code
    this.retryAfterMs = options.retryAfterMs
    this.beyondEnd = options.beyondEnd === true
    this.isAway = options.isAway === true
    this.instead = options.instead
    this.others = options.others ?? []
  }
}

/** Somewhere that a blob's bytes can be had from: an upstream, the primary, a peer. */
export interface BlobSource {
  /** For logs and metrics, and the lane that bounds its open requests: an upstream's id. No secret. */
  readonly name: string
  /** Milliseconds without headers or bytes after which it is replaced, where the fill's own deadlines are later. */
  readonly patienceMs?: number
  /** It stands in for where the blob is from, as a mirror or another edge does: its word alone proves nothing. */
  readonly isStandIn?: boolean
  /**
   * Asks for the blob's bytes from `offset` to before `end` (to the blob's end when absent).
   * Resolves when the headers are here. The caller reads to the end or cancels.
   * @throws SourceError
   */
  open(request: SourceRequest): Promise<OpenedSource>
}

export interface SourceRequest {
  readonly offset: number
  /** The first byte that is not wanted. */
  readonly end?: number | undefined
  /** Ends the request at any time, also while the body is read. */
  readonly signal: AbortSignal
}

export interface OpenedSource {
  /** Bytes of the whole blob, as this source says; undefined when it does not. */
  readonly size: number | undefined
  /** Where the body starts: the request's offset, or 0 when the source ignored it. */
  readonly offset: number
  /**
   * Puts the next bytes into `into` and returns how many; 0 at the body's end. One read at a time.
   * After `cancel` nothing is written to `into` any more: the buffer may serve somebody else by then.
   * @throws SourceError when the body is cut, the signal's reason after an abort
   */
  read(into: Buffer): Promise<number>
  /** Gives up the rest. Safe at any time, more than once. */
  cancel(): void
}
