import { OciError } from '../../shared/oci/errors.ts'
import type { BlobHandle } from '../../shared/stream/blob-handle.ts'
import type { Blobs, OpenedBlob } from '../mirror/blobs.ts'
import { tryHeader } from '../sources/hops.ts'
import { createReceivers } from './receivers.ts'
import type { UploadRate } from './upload-rate.ts'

export interface UploadsOptions {
  /** Blobs that go out to other edges at once. */
  readonly limit: number
  /** Without one they get what the line gives. */
  readonly rate: UploadRate | undefined
}

/**
 * The blobs as other edges get them: so many at once and so fast, and whoever comes when all are taken hears who else
 * holds them, or is receiving them.
 */
export function createUploads(blobs: Blobs, { limit, rate }: UploadsOptions): Blobs {
  const receivers = createReceivers()
  let running = 0

  /** @throws OciError 503, with who may be asked instead */
  const refuseWhenBusy = (what: string, asker: string): void => {
    if (running < limit) return
    throw new OciError('UNAVAILABLE', `${running} blobs go out to other edges already`, {
      headers: { [tryHeader]: receivers.others(what, asker).join(', ') },
    })
  }

  return {
    ...blobs,
    async open(origin, digest, request, doubt) {
      const { hop } = request
      if (hop?.onlyHeld === true && !blobs.isHere(origin, digest))
        throw new OciError('BLOB_UNKNOWN', 'this edge neither has this blob nor receives it')
      const hot = blobs.known(origin, digest)
      if (hot !== undefined) return paced(hot, rate)
      const asker = hop?.via.at(-1) ?? ''
      const what = `${digest}!${hop?.part ?? ''}`
      // Of a whole blob also those that are sent to others receive it; of a part they may have had no luck.
      if (hop?.part === undefined) receivers.asked(what, asker)
      refuseWhenBusy(what, asker)
      receivers.asked(what, asker)
      running++
      const { promise: closed, resolve: close } = Promise.withResolvers<void>()
      void closed.then(() => running--)
      try {
        const opened = await blobs.open(origin, digest, request, doubt)
        if (opened.kind === 'memory') close()
        return paced(opened.kind === 'memory' ? opened : withEnd(opened, close), rate)
      } catch (error) {
        close()
        throw error
      }
    },
  }
}

type OpenedHandle = Exclude<OpenedBlob, { readonly kind: 'memory' }>

/** Calls `onClose` when it is closed, once. */
function withEnd(opened: OpenedHandle, onClose: () => void): OpenedHandle {
  const { handle } = opened
  const close = (): Promise<void> => {
    onClose()
    return handle.close()
  }
  return { ...opened, handle: { ...handle, close } } as OpenedHandle
}

/** As fast as the rate lets it: what is lent, or read for several at once, would go out as it comes. */
function paced(opened: OpenedBlob, rate: UploadRate | undefined): OpenedBlob {
  if (rate === undefined) return opened
  const handle = opened.kind === 'memory' ? handleOf(opened.bytes) : opened.handle
  const read = async (buffer: Buffer, offset: number): Promise<number> => {
    const count = await handle.read(buffer.subarray(0, rate.portion), offset)
    await rate.take(count)
    return count
  }
  if (opened.kind === 'fill') {
    const borrow = () => Promise.resolve(undefined)
    return { kind: 'fill', handle: { ...opened.handle, read, borrow } }
  }
  return { kind: 'disk', handle: { size: handle.size, read, close: () => handle.close() } }
}

function handleOf(bytes: Buffer): BlobHandle {
  return {
    size: bytes.length,
    read: (buffer, offset) => Promise.resolve(bytes.copy(buffer, 0, offset)),
    close: () => Promise.resolve(),
  }
}
