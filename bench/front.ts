import { once } from 'node:events'
import {
  Agent,
  createServer,
  request as sendRequest,
  type IncomingMessage,
  type ServerResponse,
} from 'node:http'
import type { AddressInfo } from 'node:net'
import { pipeline } from 'node:stream/promises'
import { setTimeout as delay } from 'node:timers/promises'
import type { Digest } from '../shared/oci/digest.ts'
import { formatContentRange, parseRange } from '../shared/stream/range.ts'
import { parseOciUrl } from '../shared/oci/paths.ts'
import { countsOf, seeRequest, type SeenRequest } from '../test/kit/upstream.ts'
import type { ColdCounter } from './cold-clients.ts'

/** Stands before a primary: passes everything on, gives blobs at a pace, and counts what it gave of them. */
export interface Front extends ColdCounter {
  readonly url: URL
  /** From now on this blob is so many bytes, all of them 0, that come at a pace of its own. */
  declare(digest: Digest, blob: { readonly bytes: number; readonly bytesPerSecond: number }): void
  forgetRequests(): void
  close(): Promise<void>
}

type SeenBlob = Pick<SeenRequest, 'method' | 'reference'> & {
  headersAt: number | undefined
  offset: number
  bytes: number
}

const chunkBytes = 64 * 1024
const tickMs = 5
const zeros = Buffer.alloc(chunkBytes)

/** @param target the primary's listener for clients */
export async function startFront(target: URL): Promise<Front> {
  const requests: SeenRequest[] = []
  const declared = new Map<string, { readonly bytes: number; readonly bytesPerSecond: number }>()
  const agent = new Agent({ keepAlive: true })
  let pace: number | undefined

  const answer = async (request: IncomingMessage, response: ServerResponse): Promise<void> => {
    const seen = see(request)
    const known = seen && declared.get(seen.reference ?? '')
    if (seen !== undefined) requests.push(seen)
    if (seen !== undefined && known !== undefined) return sendDeclared(request, response, seen)
    const passed = sendRequest({
      host: target.hostname,
      port: target.port,
      agent,
      method: request.method,
      path: request.url,
      headers: request.headers,
    })
    // Whoever waits for the answer is told; behind it, whoever reads it.
    passed.on('error', () => undefined)
    const answered = once(passed, 'response') as Promise<[IncomingMessage]>
    const [[incoming]] = await Promise.all([answered, pipeline(request, passed)])
    response.writeHead(incoming.statusCode ?? 502, incoming.headers)
    response.flushHeaders()
    if (seen === undefined || seen.method !== 'GET' || (incoming.statusCode ?? 0) >= 300)
      return pipeline(incoming, response)
    seen.headersAt = performance.now()
    seen.offset = Number(/^bytes (\d+)-/.exec(incoming.headers['content-range'] ?? '')?.[1] ?? 0)
    await pipeline(paced(incoming as AsyncIterable<Buffer>, seen, pace), response)
  }

  const sendDeclared = async (
    request: IncomingMessage,
    response: ServerResponse,
    seen: SeenBlob,
  ): Promise<void> => {
    const { bytes, bytesPerSecond } = declared.get(seen.reference ?? '') ?? {}
    if (bytes === undefined) return
    const range = parseRange(request.headers.range, bytes)
    const part = range.kind === 'part' ? range : { start: 0, end: bytes - 1 }
    response.writeHead(range.kind === 'part' ? 206 : 200, {
      'content-type': 'application/octet-stream',
      'content-length': part.end - part.start + 1,
      'accept-ranges': 'bytes',
      ...(range.kind === 'part' && {
        'content-range': formatContentRange(part.start, part.end, bytes),
      }),
    })
    seen.headersAt = performance.now()
    seen.offset = part.start
    if (seen.method === 'HEAD') return void response.end()
    await pipeline(paced(endless(part.end - part.start + 1), seen, bytesPerSecond), response)
  }

  const server = createServer((request, response) => {
    // Who goes away is a part of what is measured.
    answer(request, response).catch(() => response.destroy())
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  return {
    url: new URL(`http://127.0.0.1:${port}`),
    requests,
    ...countsOf(requests),
    setPace(bytesPerSecond) {
      pace = bytesPerSecond
    },
    declare: (digest, blob) => void declared.set(digest, blob),
    forgetRequests() {
      requests.length = 0
    },
    async close() {
      const closed = once(server, 'close')
      server.close()
      server.closeAllConnections()
      agent.destroy()
      await closed
    },
  }
}

/** @returns undefined of what is no blob */
function see(request: IncomingMessage): SeenRequest | undefined {
  const { url = '' } = request
  const path = url.startsWith('/v2') ? parseOciUrl(url)?.path : undefined
  return path?.kind === 'blob' && 'text' in path ? seeRequest(request, path.text) : undefined
}

function* endless(bytes: number): Generator<Buffer> {
  for (let left = bytes; left > 0; left -= chunkBytes)
    yield left < chunkBytes ? zeros.subarray(0, left) : zeros
}

async function* paced(
  body: AsyncIterable<Buffer> | Iterable<Buffer>,
  seen: SeenBlob,
  bytesPerSecond: number | undefined,
): AsyncGenerator<Buffer> {
  const startedAt = performance.now()
  let given = 0
  for await (const chunk of body) {
    while (
      bytesPerSecond !== undefined &&
      given > ((performance.now() - startedAt) / 1000) * bytesPerSecond
    )
      await delay(tickMs)
    yield chunk
    given += chunk.length
    seen.bytes += chunk.length
  }
}
