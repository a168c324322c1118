/** Bytes of a blob, `start` to before `end`. */
export interface Extent {
  readonly start: number
  readonly end: number
}

/**
 * The place where one blob is being put together: on an edge a file of the cache, on the primary a spool
 * file. Only one fill writes to it; many readers read. The fill calls `close` exactly once, last.
 */
export interface Sink {
  /** Called once the blob's size is known, before the first write: make room. Throwing means proxying without a cache. */
  reserve?(size: number): Promise<void>
  /** Writes all of `buffer` at `offset`. Several writes may run at once; they never overlap. */
  write(buffer: Buffer, offset: number): Promise<void>
  /** Fills `buffer` from `offset`, returns the bytes read. Only written bytes are asked for. Works until `close`, also after `commit` and `discard`. */
  read(buffer: Buffer, offset: number): Promise<number>
  /** Makes what was written before the call durable (fdatasync). Runs beside writes and reads. */
  sync(): Promise<void>
  /** Remembers which bytes are here, so that `openSink` reports them as `held` after a crash. `size` as far as known. */
  saveProgress?(progress: SinkProgress): Promise<void>
  /**
   * The content is proved, and `size` bytes long: cuts off what lies behind (a source once said more), makes
   * the rest durable, and only then publishes it (rename, index). Throws when there are fewer bytes.
   */
  commit(size: number): Promise<void>
  /** Whether what was committed has been dropped since: then nobody else may read here. */
  isDropped?(): boolean
  /** The content is worthless: forget it and its progress. */
  discard(): Promise<void>
  /** Lets go of the file. Without `commit` or `discard` before, what is here stays for a later resume. */
  close(): Promise<void>
}

export interface SinkProgress {
  readonly size: number | undefined
  readonly held: readonly Extent[]
}

/** What `openSink` found: an empty sink, or one that an earlier run left behind. */
export interface OpenedSink {
  readonly sink: Sink
  /** Bytes that are on disk already. They are hashed again before anything is proved by them. */
  readonly held?: readonly Extent[]
  /** What an earlier run took for the blob's size: a claim, until a source or the proof confirms it. */
  readonly size?: number | undefined
}
