import type { Readable } from 'node:stream'
import type { Digest } from '../../shared/oci/digest.ts'
import type { BlobHandle } from '../../shared/stream/blob-handle.ts'

/** 32 random hex digits, registered in the records before the first byte, and never used again. */
export type BlobKey = string

/** What reads stored bytes. */
export interface BlobReader {
  /** Size in bytes, or undefined when the blob is not stored. */
  stat(key: BlobKey): Promise<{ readonly size: number } | undefined>
  /** A handle, or a URL where the client may fetch it itself (presigned); undefined when not stored. */
  open(key: BlobKey): Promise<BlobHandle | { readonly redirect: URL } | undefined>
}

/** What receives bytes. */
export interface BlobWriter {
  /** Starts an upload under a key that was registered before. */
  create(key: BlobKey): Promise<void>
  /** Bytes received and durable, or undefined when there is no such upload. */
  held(key: BlobKey): Promise<number | undefined>
  /**
   * Appends at `offset` and returns the new durable length. Hashes sha256 as it receives. A body that breaks off
   * leaves what came before, and its error is thrown.
   * @throws OciError BLOB_UPLOAD_INVALID unless `offset` is the current length and nobody else is appending;
   *   UNAVAILABLE (507) when the disk is full
   */
  append(key: BlobKey, offset: number, body: Readable): Promise<number>
  /**
   * Proves the content (no second read, except after a restart or for another algorithm) and makes it readable
   * under the key.
   * @throws OciError DIGEST_INVALID when the content has another digest; BLOB_UPLOAD_UNKNOWN when there is no upload
   */
  commit(key: BlobKey, digest: Digest): Promise<{ readonly size: number }>
  /** Forgets the upload; does nothing if it is already gone. */
  abort(key: BlobKey): Promise<void>
}

/** What the collector works with. */
export interface BlobSweeper {
  /** Every stored copy, registered or not, in the order of keys. */
  list(
    after?: BlobKey,
  ): AsyncIterable<{ readonly key: BlobKey; readonly size: number; readonly storedAt: Date }>
  /** @returns whether it was there; who reads it reads on */
  remove(key: BlobKey): Promise<boolean>
}

/** A condition under which a record is written: it must be absent, or still be what was read. */
export type RecordCondition = { readonly absent: true } | { readonly tag: string }

/** Small named records beside the blobs: store id, high-water mark. */
export interface StoreRecords {
  readRecord(name: string): Promise<{ readonly value: Buffer; readonly tag: string } | undefined>
  /** @returns false when the condition does not hold */
  writeRecord(name: string, value: Buffer, condition?: RecordCondition): Promise<boolean>
}

/** Where a primary's bytes are; its laws are in test/contract/blobs.ts. */
export type BlobStore = BlobReader & BlobWriter & BlobSweeper & StoreRecords & { close(): void }
