/** An open blob, or a fill that is still receiving one; the caller closes it. */
export interface BlobHandle {
  /** Bytes of the whole blob. */
  readonly size: number
  /** The same object for all handles of the same unchanging file, so that they can share what is read. */
  readonly identity?: object
  /**
   * Fills `buffer` from `offset` and returns the bytes read: fewer than asked when that is what is here
   * now, 0 only at or past the end. Waits for bytes that are still arriving; throws when they never will.
   */
  read(buffer: Buffer, offset: number): Promise<number>
  close(): Promise<void>
}
