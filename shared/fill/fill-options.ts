/** What a fill does when; all of it is configuration, so that tests can scale it. */
export interface FillOptions {
  /** Withheld from every reader until the digest is proved. */
  readonly withheldBytes: number
  /** A reader further than this beyond the front gets a request of its own. */
  readonly distantBytes: number
  /** Requests of distant readers open at once in one fill. */
  readonly maxDistant: number
  /**
   * How long somebody who joins waits while the fill has no place at any source yet; the fill itself stays in the
   * queue. Once a request is sent the source's own deadlines count.
   */
  readonly openTimeoutMs: number
  readonly headersTimeoutMs: number
  /** A source that sends no byte for so long is replaced. */
  readonly stallMs: number
  /** Who is asked for parts of a blob may be far slower than the others for so long. */
  readonly patienceMs: number
  /** Failures in a row after which a source is given up, once the fill has begun. */
  readonly attempts: number
  readonly retryDelaysMs: readonly number[]
  /** The longest pause that a busy source can ask for in mid-fill. */
  readonly maxBusyMs: number
  /** A closed range inside the withheld tail that has waited so long is had from a source directly. */
  readonly tailBypassMs: number
  /** A reader that held borrowed bytes longer than this reads the file for a while. */
  readonly slowReaderMs: number
  readonly windowPieces: number
  readonly maxUnwritten: number
  readonly syncEveryBytes: number
  readonly saveEveryBytes: number
  /** What a fill that a client wanted may still fetch without a reader, and how long it may go on; without limits it finishes. */
  readonly unowned: { readonly bytes?: number; readonly ms?: number }
  /** How long a fill that no client wanted goes on without a reader, and the home of parts waits for the next one. */
  readonly idleMs: number
  /** How long a finished fill still answers joiners: whoever looked into the cache just before it was published. */
  readonly lingerMs: number
}

export const fillDefaults: FillOptions = {
  withheldBytes: 64 * 1024,
  // Two segments: clients that fetch three 8 MiB chunks at a time follow the front instead of splitting it.
  distantBytes: 16 * 1024 * 1024,
  maxDistant: 4,
  openTimeoutMs: 5000,
  headersTimeoutMs: 10_000,
  stallMs: 10_000,
  patienceMs: 3000,
  // About eight seconds: an upstream that restarts is waited for, and no client sees it.
  attempts: 7,
  retryDelaysMs: [0, 100, 400, 1000, 2000, 4000],
  maxBusyMs: 30_000,
  tailBypassMs: 1000,
  slowReaderMs: 100,
  windowPieces: 8,
  maxUnwritten: 16,
  syncEveryBytes: 64 * 1024 * 1024,
  saveEveryBytes: 8 * 1024 * 1024,
  unowned: {},
  idleMs: 5000,
  lingerMs: 1000,
}

/** What fills tell: for metrics and the log. Every method is optional; none may throw. */
export interface FillObserver {
  /** A reader joined a fill that was in progress already. */
  joined?(): void
  /** Bytes arrived from a source. */
  received?(source: string, bytes: number): void
  /** A source failed once: it is retried or replaced. */
  sourceFailed?(source: string, error: Error): void
  /** A source gave bytes that were proved wrong. */
  sourceLied?(source: string, digest: string): void
  /** A piece was proved wrong, and is fetched again. `source`: who alone sent it; undefined when several did, or the disk. */
  pieceWrong?(source: string | undefined): void
  /** All pieces were what their list says, and the whole is not what its digest says. */
  piecesMisled?(digest: string): void
  /** The disk failed: this fill goes on without a cache. */
  diskFailed?(error: unknown): void
  ended?(outcome: FillOutcome): void
}

export interface FillOutcome {
  /** `stored`: proved and published · `unstored`: proved, the disk failed · `parked`: nobody reads it, its budget is spent · `failed`. */
  readonly kind: 'stored' | 'unstored' | 'parked' | 'failed'
  readonly digest: string
  /** Of the blob; undefined when it never became known. */
  readonly size: number | undefined
  /** Received from sources. */
  readonly receivedBytes: number
  readonly ms: number
  readonly error?: unknown
}
