// The client's side of a bench, in a process of its own: it drops every body in one fixed buffer.
import { connect as connectPlain, type OnReadOpts, type Socket } from 'node:net'
import { connect as connectTls, type ConnectionOptions } from 'node:tls'
import type { Load, LoadResult } from './load-protocol.ts'

// Fits the second-level cache, so that dropping bytes stays cheaper than sending them.
const dropBuffer = Buffer.allocUnsafeSlow(256 * 1024)
const headEnd = Buffer.from('\r\n\r\n')

/**
 * What the last head looked like: the next one, of the same request, is not read again when its end and its length stand
 * in the same places. A client that reads every head by a pattern is slower than nginx, which then meets several
 * requests at once and saves itself the waking of a client that is awake.
 */
interface KnownHead {
  readonly bytes: number
  readonly bodyBytes: number
  /** The value of `Content-Length` with its line's end, and where it stands. */
  readonly digits: Buffer
  readonly digitsAt: number
}

/** `\r\n\r\n` and ` 200`, as numbers of the machine's order. */
const endOfHead = 0x0a0d0a0d
const ok = 0x30303220

function isSameHead({ bytes, digits, digitsAt }: KnownHead, length: number): boolean {
  return (
    length >= bytes &&
    dropBuffer.readUInt32LE(8) === ok &&
    dropBuffer.readUInt32LE(bytes - headEnd.length) === endOfHead &&
    dropBuffer.compare(digits, 0, digits.length, digitsAt, digitsAt + digits.length) === 0
  )
}

/** @throws Error when what came does not begin with the whole head of a 200 */
function parseHead(length: number, load: Load): KnownHead {
  const end = dropBuffer.subarray(0, length).indexOf(headEnd)
  const bytes = end + headEnd.length
  const head = dropBuffer.toString('latin1', 0, end < 0 ? length : bytes)
  if (end < 0 || !head.startsWith('HTTP/1.1 200'))
    throw new Error(`answered ${head.split('\r')[0]}`)
  const found = /\r\ncontent-length: (\d+\r\n)/i.exec(head)
  const digits = found?.[1]
  if (found === null || digits === undefined) throw new Error(`no length in ${head}`)
  return {
    bytes,
    bodyBytes: load.head ? 0 : Number(digits),
    digits: Buffer.from(digits, 'latin1'),
    digitsAt: found.index + found[0].length - digits.length,
  }
}

/** All servers are to do the same work: left to themselves, they agree with a client on different ciphers. */
const oneCipher = { minVersion: 'TLSv1.3', ciphers: 'TLS_AES_128_GCM_SHA256' } as const

process.on('message', (load: Load) => {
  void run(load).then((result) => process.send?.(result))
})
process.on('disconnect', () => process.exit())

async function run(load: Load): Promise<LoadResult> {
  const counts = { started: 0, responses: 0, bodyBytes: 0 }
  const cpu = process.cpuUsage()
  const startedAt = performance.now()
  const failures = await Promise.allSettled(
    Array.from({ length: load.connections }, () => useConnection(load, counts)),
  )
  const used = process.cpuUsage(cpu)
  const failed = failures.find((each) => each.status === 'rejected')
  return {
    responses: counts.responses,
    bodyBytes: counts.bodyBytes,
    seconds: (performance.now() - startedAt) / 1000,
    cpuSeconds: (used.user + used.system) / 1e6,
    ...(failed === undefined ? {} : { error: String(failed.reason) }),
  }
}

interface Counts {
  started: number
  responses: number
  bodyBytes: number
}

function useConnection(load: Load, counts: Counts): Promise<void> {
  return new Promise((resolve, reject) => {
    let left: number | undefined // body bytes to come; undefined: the head is to come
    let known: KnownHead | undefined
    const ask = (): void => {
      if (counts.started >= load.total) return void socket.end(resolve)
      counts.started++
      socket.write(load.request, 'latin1')
    }
    const receive = (length: number): boolean => {
      const body = left === undefined ? readHead(length) : length
      left = (left ?? 0) - body
      counts.bodyBytes += body
      if (left === 0) {
        left = undefined
        counts.responses++
        ask()
      }
      return true
    }
    /** Sets `left` and returns the body bytes that came with the head. */
    const readHead = (length: number): number => {
      if (known === undefined || !isSameHead(known, length)) known = parseHead(length, load)
      left = known.bodyBytes
      return length - known.bytes
    }
    const onread: OnReadOpts = {
      buffer: dropBuffer,
      callback: (length) => {
        try {
          return receive(length)
        } catch (error) {
          socket.destroy(error as Error)
          return false
        }
      },
    }
    const socket: Socket = openSocket(load, onread, ask)
    socket.on('error', reject)
    socket.on('close', () => reject(new Error('the connection was closed too early')))
  })
}

function openSocket({ host, port, ca }: Load, onread: OnReadOpts, ready: () => void): Socket {
  if (ca === undefined) return connectPlain({ host, port, onread }, ready)
  // `onread` is documented for tls.connect, and missing in its type.
  const options: ConnectionOptions & { onread: OnReadOpts } = {
    host,
    port,
    ca,
    onread,
    ...oneCipher,
  }
  return connectTls(options, ready)
}
