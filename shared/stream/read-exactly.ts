import type { BlobHandle } from './blob-handle.ts'

/** Fills a buffer from an open blob, from this offset on. @throws Error when the blob ends before it is full */
export async function readExactly(
  blob: Pick<BlobHandle, 'read'>,
  buffer: Buffer,
  offset = 0,
): Promise<void> {
  for (let count = 0; count < buffer.length;) {
    const read = await blob.read(buffer.subarray(count), offset + count)
    if (read === 0) throw new Error(`the blob ends at byte ${offset + count}, early`)
    count += read
  }
}
