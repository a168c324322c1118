import type { Readable } from 'node:stream'
import { OciError } from '../../shared/oci/errors.ts'

/**
 * Reads a body that must fit into memory, counting as it comes: many clients send no Content-Length.
 * @throws OciError SIZE_INVALID (413) as soon as it is larger; the rest is still to be drained
 */
export async function readBody(body: Readable, maxBytes: number): Promise<Buffer> {
  const chunks: Buffer[] = []
  let bytes = 0
  // Leaving an iterator early destroys the request, and with it the way back for the refusal.
  for await (const chunk of body.iterator({ destroyOnReturn: false }) as AsyncIterable<Buffer>) {
    bytes += chunk.length
    if (bytes > maxBytes) {
      throw new OciError('SIZE_INVALID', `a manifest may have at most ${maxBytes} bytes`, {
        status: 413,
      })
    }
    chunks.push(chunk)
  }
  return Buffer.concat(chunks, bytes)
}
