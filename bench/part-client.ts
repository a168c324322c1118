import { createHash } from 'node:crypto'
import { connect, type OnReadOpts } from 'node:net'

/** A download of a blob, or of a part of it that the client cuts off, and when what came; `performance.now()`. */
export interface PartSeen {
  /** When the request left: the kernel connects at once, and what this process does before is its own affair. */
  readonly askedAt: number
  readonly headersAt: number
  /** When the first byte of the body was here. */
  readonly firstByteAt: number
  readonly doneAt: number
  /** The longest time in its body without a byte, milliseconds. */
  readonly longestWaitMs: number
  /** sha256 of the bytes, in hex, where it was wanted. */
  readonly sha256: string | undefined
}

export interface PartWanted {
  readonly origin: URL
  readonly path: string
  /** An open-ended range from here, as containerd asks for its chunks; the whole blob without. */
  readonly offset?: number
  /** Bytes after which the client has enough, and closes. */
  readonly length: number
  /** Whether to hash the bytes, which costs more than all the rest. */
  readonly hashes: boolean
  readonly authorization?: string | undefined
}

const deadlineMs = 120_000
const dropBuffer = Buffer.allocUnsafeSlow(256 * 1024)
const headEnd = Buffer.from('\r\n\r\n')

/** Downloads over a connection of its own, as cheaply as Node can. @throws Error unless it gets all of it */
export function downloadPart(wanted: PartWanted): Promise<PartSeen> {
  return new Promise((resolve, reject) => {
    const { origin, path, offset, length, hashes, authorization } = wanted
    const hash = hashes ? createHash('sha256') : undefined
    const range = offset === undefined ? '' : `Range: bytes=${offset}-\r\n`
    const login = authorization === undefined ? '' : `Authorization: ${authorization}\r\n`
    let askedAt = performance.now()
    let headersAt: number | undefined
    let firstByteAt: number | undefined
    let lastByteAt = Infinity
    let longestWaitMs = 0
    let left = length
    const take = (bytes: Buffer): void => {
      if (bytes.length > 0) {
        const at = performance.now()
        firstByteAt ??= at
        longestWaitMs = Math.max(longestWaitMs, at - lastByteAt)
        lastByteAt = at
      }
      hash?.update(bytes.subarray(0, left))
      left -= Math.min(bytes.length, left)
      if (left > 0) return
      socket.destroy()
      const doneAt = performance.now()
      resolve({
        askedAt,
        headersAt: headersAt ?? doneAt,
        firstByteAt: firstByteAt ?? doneAt,
        doneAt,
        longestWaitMs,
        sha256: hash?.digest('hex'),
      })
    }
    const readHead = (bytes: Buffer): Buffer => {
      const end = bytes.indexOf(headEnd)
      const head = bytes.toString('latin1', 0, end < 0 ? bytes.length : end)
      const line = `HTTP/1.1 ${offset === undefined ? 200 : 206}`
      if (end < 0 || !head.startsWith(line))
        throw new Error(`${path} answered ${bytes.toString('latin1', 0, 1000)}`)
      headersAt = performance.now()
      return bytes.subarray(end + headEnd.length)
    }
    const onread: OnReadOpts = {
      buffer: dropBuffer,
      callback: (count) => {
        try {
          const bytes = dropBuffer.subarray(0, count)
          take(headersAt === undefined ? readHead(bytes) : bytes)
        } catch (error) {
          socket.destroy(error as Error)
        }
        return true
      },
    }
    const { hostname, port, host } = origin
    const socket = connect({ host: hostname, port: Number(port), onread })
    socket.once('connect', () => (askedAt = performance.now()))
    socket.write(`GET ${path} HTTP/1.1\r\nHost: ${host}\r\nAccept: */*\r\n${login}${range}\r\n`)
    socket.setTimeout(deadlineMs, () => socket.destroy(new Error(`${path} stalled`)))
    socket.on('error', reject)
    socket.on('close', () => reject(new Error(`${path} ended ${left} bytes early`)))
  })
}
