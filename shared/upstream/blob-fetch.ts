import { asHttpError } from '../http/client.ts'
import type { BulkDispatcher } from '../http/undici.ts'
import { SourceError, type OpenedSource, type SourceRequest } from '../stream/blob-source.ts'
import { formatRange, parseContentRange } from '../stream/range.ts'
import type { Access, Authenticator } from './bearer.ts'
import { requestBulk, type BulkResponse } from './bulk-body.ts'
import { exchange, maxRedirects, type Line } from './exchange.ts'
import { errorOfHttp, errorOfStatus } from './outcome.ts'
import { isEncoded, sizeOf } from './request.ts'

export interface BlobTarget {
  readonly url: URL
  readonly access: Access
  readonly headers: Readonly<Record<string, string>>
}

export interface BlobFetchDeps {
  readonly dispatcher: BulkDispatcher
  readonly authenticator: Authenticator
  readonly onBytes: (count: number) => void
}

/**
 * Opens a blob's bytes: logs in, follows redirects, holds the upstream to the range that was asked for.
 * @throws SourceError, the signal's reason
 */
export async function openBlobAt(
  target: BlobTarget,
  request: SourceRequest,
  { dispatcher, authenticator, onBytes }: BlobFetchDeps,
): Promise<OpenedSource> {
  const { name } = authenticator
  const { offset, end, signal } = request
  const isRanged = offset > 0 || end !== undefined
  const range = isRanged ? formatRange(offset, end === undefined ? undefined : end - 1) : undefined
  const { answer, elsewhere } = await exchange(
    {
      ...target,
      headers: { accept: '*/*', ...(range !== undefined && { range }) },
      ownHeaders: target.headers,
      redirects: maxRedirects,
      signal,
    },
    authenticator,
    createLine(name, dispatcher, signal),
  )
  try {
    return opened(name, answer, { request, elsewhere, isRanged, onBytes })
  } catch (error) {
    answer.discard()
    throw error
  }
}

function createLine(
  name: string,
  dispatcher: BulkDispatcher,
  signal: AbortSignal,
): Line<BulkResponse> {
  return {
    async send(url, own) {
      const headers = { 'accept-encoding': 'identity', 'user-agent': 'outport', ...own }
      const ask = () => requestBulk(dispatcher, url, { method: 'GET', headers, signal })
      try {
        // A kept connection that the far side has closed: nothing was answered, ask once more.
        return await ask().catch((error: unknown) => {
          if (!signal.aborted && wasClosed(error)) return ask()
          throw error
        })
      } catch (error) {
        signal.throwIfAborted()
        throw errorOfHttp(name, asHttpError(url, error))
      }
    },
    discard: (response) => response.discard(),
  }
}

function wasClosed(error: unknown): boolean {
  const code = error instanceof Error && 'code' in error ? error.code : undefined
  return code === 'UND_ERR_SOCKET' || code === 'ECONNRESET' || code === 'EPIPE'
}

/** What a status other than success means for a blob; storage behind a redirect does not speak for the registry. */
export function errorOfBlobStatus(
  name: string,
  { status, headers }: { status: number; headers: Readonly<Record<string, string>> },
  elsewhere: boolean,
): SourceError {
  const error = errorOfStatus(elsewhere ? `the storage of ${name}` : name, status, headers)
  // A link into storage that has expired: the registry gives out a new one next time.
  if (elsewhere && error.code === 'refused') return new SourceError('unavailable', error.message)
  return error
}

interface OpeningOf {
  readonly request: SourceRequest
  readonly elsewhere: boolean
  readonly isRanged: boolean
  readonly onBytes: (count: number) => void
}

function opened(
  name: string,
  response: BulkResponse,
  { request, elsewhere, isRanged, onBytes }: OpeningOf,
): OpenedSource {
  const { status, headers } = response
  const length = sizeOf(headers['content-length'])
  if (status === 416)
    throw new SourceError('broken', `${name} has fewer bytes than expected`, { beyondEnd: true })
  if (status !== 200 && status !== 206) throw errorOfBlobStatus(name, response, elsewhere)
  if (isEncoded(headers['content-encoding']))
    throw new SourceError('broken', `${name} encodes what must come as it is`)
  const body = { name, response, signal: request.signal, onBytes }
  if (status === 200) return { ...readerOf(body, length), size: length, offset: 0 }
  const range = parseContentRange(headers['content-range'])
  const { offset, end = Infinity } = request
  if (!isRanged || range === undefined || range.start !== offset || range.end >= end)
    throw new SourceError('broken', `${name} answers another range`)
  const bytes = range.end - range.start + 1
  if (length !== undefined && length !== bytes)
    throw new SourceError('broken', `${name} says two lengths of one range`)
  return { ...readerOf(body, bytes), size: range.size, offset }
}

interface Body {
  readonly name: string
  readonly response: BulkResponse
  readonly signal: AbortSignal
  readonly onBytes: (count: number) => void
}

/** Counts: the connection's own framing does not know what the range promised. */
function readerOf(
  { name, response, signal, onBytes }: Body,
  promised: number | undefined,
): Pick<OpenedSource, 'read' | 'cancel'> {
  let received = 0
  return {
    async read(into) {
      const count = await readOr(response, into, (cause) => {
        signal.throwIfAborted()
        return new SourceError('unavailable', `${name} cut the body`, { cause })
      })
      received += count
      onBytes(count)
      if (promised === undefined) return count
      if (received > promised) {
        response.cancel()
        throw new SourceError('broken', `${name} sends more than it said`)
      }
      if (count === 0 && into.length > 0 && received < promised)
        throw new SourceError('unavailable', `${name} ends the body early`)
      return count
    },
    cancel: () => response.cancel(),
  }
}

async function readOr(
  response: BulkResponse,
  into: Buffer,
  errorOf: (cause: unknown) => Error,
): Promise<number> {
  try {
    return await response.read(into)
  } catch (error) {
    throw errorOf(error)
  }
}
