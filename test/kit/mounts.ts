import { spawn, type ChildProcessWithoutNullStreams } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, open, rm, statfs } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { atEnd } from './at-end.ts'

/** A small disk of a test's own, which the rest of the machine does not see. */
export interface SmallDisk {
  /** Its root, for this process and those that it starts. */
  readonly folder: string
  /** Takes the room that is left, all or all but so many bytes, as something else on the disk would. */
  fill(leftBytes?: number): Promise<void>
  /** Gives that room back. */
  free(): Promise<void>
  /** Has everything refused that would change the disk, but for files that are open already. */
  setReadOnly(readOnly: boolean): Promise<void>
}

/** Why a test has no disk of its own, and what helps. */
export const noSmallDisk =
  'needs a mount namespace: run as root, or allow unprivileged user namespaces'

// A tmpfs with an open writer (and an edge always has one: its index's log) cannot be remounted read-only. So a second,
// read-only view of the disk is laid over the first; it goes lazily, since what was opened by it may still be open.
const helperScript = `
mount -t tmpfs -o "size=$2,mode=700" tmpfs "$1" || exit 1
echo 0
while read -r wanted; do
  case $wanted in
    ro) mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" ;;
    rw) umount -l "$1" ;;
  esac
  echo $?
done`

/** Ways into a mount namespace: root's, and anybody's where the kernel lets them. */
const namespaces = [['--mount'], ['--user', '--map-root-user', '--mount']]

/**
 * Mounts a tmpfs in a namespace of its own, which a helper process holds; it is gone after the file's last test, or
 * with this process.
 * @returns undefined where neither root's rights nor user namespaces are to be had
 */
export async function mountSmallDisk(bytes: number): Promise<SmallDisk | undefined> {
  const mountPoint = await mkdtemp(join(tmpdir(), 'outport-disk-'))
  atEnd(() => rm(mountPoint, { recursive: true, force: true }))
  for (const flags of namespaces) {
    const helper = await startHelper([...flags, 'sh', '-c', helperScript, 'sh'], mountPoint, bytes)
    if (helper !== undefined) return createSmallDisk(helper, mountPoint)
  }
  return undefined
}

interface Helper {
  readonly pid: number
  /** @throws Error when it was refused */
  tell(wanted: 'ro' | 'rw'): Promise<void>
}

async function startHelper(
  args: readonly string[],
  mountPoint: string,
  bytes: number,
): Promise<Helper | undefined> {
  const child = spawn('unshare', [...args, mountPoint, String(bytes)])
  const errors: Buffer[] = []
  child.stderr.on('data', (chunk: Buffer) => errors.push(chunk))
  const answers = createInterface(child.stdout)[Symbol.asyncIterator]()
  const answered = async (): Promise<boolean> => {
    const answer = await answers.next()
    return answer.done !== true && answer.value === '0'
  }
  if (!(await hasStarted(child)) || child.pid === undefined || !(await answered())) return undefined
  const ended = once(child, 'exit')
  atEnd(async () => {
    child.stdin.end()
    await ended
  })
  return {
    pid: child.pid,
    async tell(wanted) {
      child.stdin.write(`${wanted}\n`)
      if (!(await answered())) throw new Error(`no ${wanted}: ${Buffer.concat(errors).toString()}`)
    },
  }
}

/** A machine without the program is one without the namespace. */
async function hasStarted(child: ChildProcessWithoutNullStreams): Promise<boolean> {
  try {
    await once(child, 'spawn')
    return true
  } catch {
    return false
  }
}

function createSmallDisk({ pid, tell }: Helper, mountPoint: string): SmallDisk {
  // The kernel's door into another process's mounts. [proc_pid_root(5)]
  const folder = `/proc/${pid}/root${mountPoint}`
  const ballast = join(folder, 'ballast')
  let isReadOnly = false
  return {
    folder,
    fill: (leftBytes = 0) => writeUntilFull(ballast, leftBytes),
    free: () => rm(ballast, { force: true }),
    async setReadOnly(readOnly) {
      if (readOnly === isReadOnly) return
      await tell(readOnly ? 'ro' : 'rw')
      isReadOnly = readOnly
    },
  }
}

async function writeUntilFull(path: string, leftBytes: number): Promise<void> {
  const file = await open(path, 'a')
  try {
    const block = Buffer.alloc(64 * 1024)
    while (leftBytes === 0 || (await freeBytes(path)) > leftBytes) await file.write(block)
  } catch (error) {
    if (!(error instanceof Error && 'code' in error && error.code === 'ENOSPC')) throw error
  } finally {
    await file.close()
  }
}

async function freeBytes(path: string): Promise<number> {
  const { bavail, bsize } = await statfs(path)
  return bavail * bsize
}
