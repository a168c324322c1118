import { stat } from 'node:fs/promises'
import { connect, createServer, type Server, type Socket } from 'node:net'

/** Held until released, or until the process ends in whatever way. */
export interface FolderLock {
  /** From now on, whoever finds the folder taken is told that it will soon be free. */
  announceEnd(): void
  release(): Promise<void>
}

/** Another process works on this folder. */
export class FolderLockedError extends Error {
  override readonly name = 'FolderLockedError'
  /** The other process, if it said so. */
  readonly pid: number | undefined
  /** It is on its way out: waiting helps. */
  readonly isEnding: boolean

  constructor(path: string, { pid, isEnding }: Holder) {
    const holder = pid === undefined ? 'another process' : `process ${pid}`
    super(
      `${path} is in use by ${holder}: another instance runs on the same data; stop it, or choose another data folder`,
    )
    this.pid = pid
    this.isEnding = isEnding
  }
}

interface Holder {
  readonly pid: number | undefined
  readonly isEnding: boolean
}

const ending = 'ending'

/**
 * Makes this process the only one on a folder. The lock is an abstract unix socket named after the folder's device
 * and inode: the kernel gives it to one process and takes it back when that process ends, `kill -9` included, so
 * nothing stale is left behind and a reused pid means nothing. It reaches as far as the network namespace:
 * containers that share a volume do not see each other's.
 * @param path of a folder that exists
 * @param purpose what the folder is to this process; locks of different purposes do not exclude each other
 * @throws FolderLockedError when another process holds it
 */
export async function lockFolder(path: string, purpose: string): Promise<FolderLock> {
  const { dev, ino } = await stat(path, { bigint: true })
  const name = `\0outport/${purpose}/${dev}:${ino}`
  let state = ''
  const server = createServer((socket) => {
    // Tells who holds the lock, for the other's error message.
    socket.on('error', () => socket.destroy())
    socket.end(`${process.pid} ${state}`)
  })
  try {
    await listen(server, name)
  } catch (error) {
    if (!(error instanceof Error && 'code' in error && error.code === 'EADDRINUSE')) throw error
    throw new FolderLockedError(path, await askHolder(name))
  }
  server.unref()
  return {
    announceEnd() {
      state = ending
    },
    release: () =>
      new Promise((resolve) => {
        server.close(() => resolve())
      }),
  }
}

function listen(server: Server, name: string): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', reject)
    server.listen({ path: name }, () => {
      server.off('error', reject)
      resolve()
    })
  })
}

/** Nothing is known of one that does not answer within a second. */
async function askHolder(name: string): Promise<Holder> {
  const socket: Socket = connect({ path: name })
  socket.setEncoding('utf8')
  socket.setTimeout(1000, () => socket.destroy(new Error('no answer')))
  try {
    let answer = ''
    for await (const chunk of socket) answer += String(chunk)
    const [pid = '', state] = answer.split(' ')
    return { pid: /^\d+$/.test(pid) ? Number(pid) : undefined, isEnding: state === ending }
  } catch {
    return { pid: undefined, isEnding: false }
  } finally {
    socket.destroy()
  }
}
