import { spawn, type ChildProcess } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import type { Stats } from 'node:fs'
import {
  open,
  lstat,
  mkdir,
  mkdtemp,
  readdir,
  readFile,
  realpath,
  rename,
  rm,
} from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import pg from 'pg'
import { syncFolder, writeFileAtomic } from '../../shared/files/atomic-write.ts'
import { isMissing } from '../../shared/files/open-files.ts'
import type { DatabaseAddress } from './database.ts'
import { findPostgresBinaries, type PostgresBinaries } from './postgres-binaries.ts'
import { isPostgresIn, postgresProcessesIn, signal } from './postgres-processes.ts'
import { listUnprivileged, type Unprivileged } from './unprivileged.ts'

/** A PostgreSQL of this installation's own. */
export interface EmbeddedPostgres {
  readonly address: Extract<DatabaseAddress, { socketFolder: string }>
  readonly pid: number
  /** Resolves when the server is gone, wanted or not. */
  readonly exited: Promise<void>
  /**
   * Ends it: at once for who still has a connection, so close the pool first. After `deadlineMs` the server
   * is told to drop everything; it is never killed, since it recovers by itself and the kernel does not.
   */
  stop(deadlineMs: number): Promise<void>
}

export interface EmbeddedPostgresOptions {
  /** A folder of its own; made if it is not there. */
  readonly folder: string
  /** Milliseconds until it must answer, recovery after a crash included. */
  readonly startTimeoutMs: number
  /** Breaks the start off: what it began is ended first, then its reason is thrown. */
  readonly signal?: AbortSignal
  /** Those of the npm package if left out. */
  readonly binaries?: PostgresBinaries
}

/** Why it does not run, in one line. */
class EmbeddedPostgresError extends Error {
  override readonly name = 'EmbeddedPostgresError'
}

const version = '18'
const user = 'outport'
const port = 5432
/** A socket's path has 107 bytes at most. [unix(7)] */
const socketPathMax = 107
const pollMs = 20
/** How long what an earlier run left may take, and a server whose start failed, before it is told to drop everything. */
const patienceMs = 5000

/** How long a start may go on. */
interface Limits {
  /** In the milliseconds of Date.now(). */
  readonly deadline: number
  readonly cut: AbortSignal
}

/** Everything that a start needs to know. */
interface Place {
  readonly folder: string
  readonly cluster: string
  readonly log: string
  readonly socketFolder: string
  readonly password: string
  readonly binaries: PostgresBinaries
  readonly unprivileged: Unprivileged
}

/**
 * Starts the server, or adopts the one that a killed primary left running. It listens on no network, only on a
 * socket in a private folder, and survives Ctrl-C so that requests which are running can be finished.
 * @throws EmbeddedPostgresError, or the system's error when the disk is full or not writable
 */
export async function startEmbeddedPostgres(
  options: EmbeddedPostgresOptions,
): Promise<EmbeddedPostgres> {
  const limits: Limits = {
    deadline: Date.now() + options.startTimeoutMs,
    cut: options.signal ?? new AbortController().signal,
  }
  await mkdir(options.folder, { recursive: true, mode: 0o700 })
  // The kernel tells folders by their real paths, and so must we, to find what an earlier run left.
  const folder = await realpath(options.folder)
  const cluster = join(folder, 'cluster')
  await checkVersion(cluster)
  const password = await findPassword(folder)
  const binaries = options.binaries ?? (await findPostgresBinaries(folder))
  const ways = await listUnprivileged(cluster)
  const placeFor = async (unprivileged: Unprivileged): Promise<Place> => ({
    folder,
    cluster,
    log: join(folder, 'postgres.log'),
    socketFolder: await findSocketFolder(folder, unprivileged),
    password,
    binaries,
    unprivileged,
  })
  const [way, ...others] = ways
  const place = await placeFor(way)
  const running = await findRunning(place, limits)
  if (running !== undefined) return adopt(place, running)
  if (await isThere(cluster)) return launch(place, limits)
  // An initdb whose primary was killed: nobody will use what it makes.
  await stopLeftPostgres(folder, patienceMs)
  return launch(await placeFor(await initialise(place, { others, cut: limits.cut })), limits)
}

/**
 * Ends what a killed primary left running in its folder: a server, backends without one, an initdb; returns when
 * all of it is gone. After `deadlineMs` it is told to drop everything; it is never killed.
 * @param folder that of startEmbeddedPostgres; need not be there
 * @throws EmbeddedPostgresError when something goes on running
 */
export async function stopLeftPostgres(folder: string, deadlineMs: number): Promise<void> {
  if (!(await isThere(folder))) return
  const home = await realpath(folder)
  const cluster = join(home, 'cluster')
  const told = new Set<number>()
  for (const startedAt = Date.now(); ; await sleep(pollMs)) {
    const left = postgresProcessesIn(home)
    if (left.length === 0) return
    const server = await serverPid(cluster)
    for (const { pid, program } of left) {
      // Never to a backend or a checkpointer, to which SIGINT means something else: they follow their server.
      if (told.has(pid) || (pid !== server && program !== 'initdb')) continue
      signal(pid, 'SIGINT')
      told.add(pid)
    }
    const waitedMs = Date.now() - startedAt
    if (waitedMs > deadlineMs) for (const { pid } of left) signal(pid, 'SIGQUIT')
    if (waitedMs > deadlineMs + patienceMs) throw leftRunning(left.map(({ pid }) => pid))
  }
}

/** Beside the cluster where its path is short enough, else under /tmp, as a note in the folder says. */
async function findSocketFolder(folder: string, unprivileged: Unprivileged): Promise<string> {
  const near = join(folder, 'socket')
  const fits = Buffer.byteLength(`${near}/.s.PGSQL.${port}`) <= socketPathMax
  const chosen = fits ? near : await findFarSocketFolder(folder)
  await mkdir(chosen, { recursive: true, mode: 0o700 })
  await unprivileged.give(chosen)
  return chosen
}

/** The note says whose it is: a copy of the data folder must not meet its original there. */
async function findFarSocketFolder(folder: string): Promise<string> {
  const note = join(folder, 'socket-folder')
  const [owner, known] = (await readIfThere(note))?.split('\n') ?? []
  if (owner === folder && known !== undefined && (await isPrivate(known, folder))) return known
  const fresh = await mkdtemp(join(tmpdir(), 'outport-'))
  await writeFileAtomic(note, `${folder}\n${fresh}`, { mode: 0o600 })
  return fresh
}

/** Anybody may make a folder under /tmp once ours was cleaned away, and would hear our password there. */
async function isPrivate(path: string, folder: string): Promise<boolean> {
  const found = await statIfThere(path)
  if (found?.isDirectory() !== true || (found.mode & 0o077) !== 0) return false
  const cluster = await statIfThere(join(folder, 'cluster'))
  return found.uid === process.getuid?.() || found.uid === cluster?.uid
}

async function findPassword(folder: string): Promise<string> {
  const path = passwordFile(folder)
  const known = await readIfThere(path)
  if (known !== undefined) return known
  const password = randomBytes(24).toString('hex')
  await writeFileAtomic(path, password, { mode: 0o600 })
  return password
}

function passwordFile(folder: string): string {
  return join(folder, 'password')
}

async function checkVersion(cluster: string): Promise<void> {
  const found = (await readIfThere(join(cluster, 'PG_VERSION')))?.trim()
  if (found === undefined || found === version) return
  const advice =
    Number(found) > Number(version)
      ? 'start the newer version of Outport that wrote them'
      : `dump them with the version that wrote them, and load them into a new folder`
  throw new EmbeddedPostgresError(
    `the records in ${cluster} are of PostgreSQL ${found}, this is ${version}: ${advice}`,
  )
}

/**
 * Makes the cluster under another name first: half of one is never taken for one.
 * @param others ways to run initdb when that of `place` does not do
 * @returns the way that did
 */
async function initialise(
  place: Place,
  { others, cut }: { readonly others: readonly Unprivileged[]; readonly cut: AbortSignal },
): Promise<Unprivileged> {
  const { cluster, folder } = place
  for (const name of await readdir(folder))
    if (name.startsWith('new-cluster-')) await rm(join(folder, name), { recursive: true })
  const complaints: string[] = []
  for (const unprivileged of [place.unprivileged, ...others]) {
    const fresh = await mkdtemp(join(folder, 'new-cluster-'))
    await unprivileged.give(fresh)
    const errors = await runInitdb({ ...place, unprivileged }, { fresh, cut })
    if (errors === undefined) {
      await rename(fresh, cluster)
      await syncFolder(folder)
      return unprivileged
    }
    await rm(fresh, { recursive: true })
    cut.throwIfAborted()
    // Nobody else would find more room.
    refuseFullDisk(errors, folder)
    complaints.push(lastComplaint(errors))
  }
  throw new EmbeddedPostgresError(`PostgreSQL could not be set up: ${complaints.join('; ')}`)
}

/** @returns what it printed about its failure, or undefined when all is well */
async function runInitdb(
  place: Place,
  { fresh, cut }: { readonly fresh: string; readonly cut: AbortSignal },
): Promise<string | undefined> {
  cut.throwIfAborted()
  const { binaries, unprivileged, folder } = place
  const args = [
    ...['-D', fresh, '-U', user, '-E', 'UTF8', '--no-locale', '--auth=scram-sha-256'],
    ...[`--pwfile=${passwordFile(folder)}`, '--no-instructions'],
  ]
  const [command = '', ...rest] = [...unprivileged.prefix, binaries.initdb, ...args]
  const child = spawn(command, rest, {
    env: binaries.env,
    cwd: folder,
    // A group of its own, to end it with the server that it runs; Ctrl-C comes to it through us alone.
    detached: true,
    stdio: ['ignore', 'ignore', 'pipe'],
  })
  const interrupt = () => {
    if (child.pid !== undefined) signal(-child.pid, 'SIGINT')
  }
  cut.addEventListener('abort', interrupt)
  try {
    const errors = await collect(child)
    return child.exitCode === 0 ? undefined : errors
  } finally {
    cut.removeEventListener('abort', interrupt)
  }
}

/**
 * The disk's state is known to us by what PostgreSQL printed alone: in English, as its environment says.
 * @throws EmbeddedPostgresError with the system's code and the folder, when the disk is full
 */
function refuseFullDisk(errors: string, folder: string): void {
  const code = [
    { words: 'No space left on device', code: 'ENOSPC' },
    { words: 'Disk quota exceeded', code: 'EDQUOT' },
  ].find(({ words }) => errors.includes(words))?.code
  if (code === undefined) return
  throw Object.assign(new EmbeddedPostgresError(lastComplaint(errors)), { code, path: folder })
}

function launchArguments({ cluster, socketFolder }: Place): readonly string[] {
  const settings = {
    listen_addresses: '',
    port: String(port),
    unix_socket_directories: socketFolder,
    unix_socket_permissions: '0700',
    password_encryption: 'scram-sha-256',
    fsync: 'on',
    full_page_writes: 'on',
    synchronous_commit: 'on',
    max_connections: '220',
    shared_buffers: '128MB',
    // Statements here are short: compiling one, or sharing it out, costs more than it saves. Containers have
    // little of the memory that it is shared through.
    jit: 'off',
    max_parallel_workers_per_gather: '0',
    // The primary knows its statements' errors; here each would be a line of the log, with what it was about.
    log_min_messages: 'log',
    log_min_error_statement: 'panic',
    log_checkpoints: 'off',
    log_line_prefix: '%m ',
    update_process_title: 'off',
  }
  return [
    '-D',
    cluster,
    ...Object.entries(settings).flatMap(([name, value]) => ['-c', `${name}=${value}`]),
  ]
}

async function launch(place: Place, limits: Limits): Promise<EmbeddedPostgres> {
  const { binaries, unprivileged, folder, log } = place
  const output = await open(log, 'w', 0o600)
  try {
    const [command = '', ...rest] = [
      ...unprivileged.prefix,
      binaries.postgres,
      ...launchArguments(place),
    ]
    const child = spawn(command, rest, {
      env: binaries.env,
      cwd: folder,
      // A session of its own: Ctrl-C must not reach it before the requests are done.
      detached: true,
      stdio: ['ignore', output.fd, output.fd],
    })
    const exited = new Promise<void>((gone) => {
      child.once('exit', () => gone())
      child.once('error', () => gone())
    })
    const server = createServer(place, { pid: child.pid ?? 0, exited })
    try {
      await waitUntilReady(place, { child, limits })
    } catch (error) {
      await server.stop(patienceMs)
      throw error
    }
    child.unref()
    return server
  } finally {
    await output.close()
  }
}

async function waitUntilReady(
  place: Place,
  { child, limits }: { readonly child: ChildProcess; readonly limits: Limits },
): Promise<void> {
  let failure: unknown
  child.once('error', (error) => {
    failure = error
  })
  for (;;) {
    limits.cut.throwIfAborted()
    const answered = await answers(place)
    // The order matters: another server may be what answered.
    if (failure !== undefined || child.exitCode !== null || child.signalCode !== null) {
      const errors = (await readIfThere(place.log)) ?? ''
      refuseFullDisk(errors, place.folder)
      throw new EmbeddedPostgresError(`PostgreSQL did not start: ${lastComplaint(errors)}`, {
        cause: failure,
      })
    }
    if (answered) return
    if (Date.now() > limits.deadline) {
      throw new EmbeddedPostgresError(
        `PostgreSQL did not answer in time: it may be recovering; see ${place.log}, or raise primary.database.start_timeout`,
      )
    }
    await sleep(pollMs)
  }
}

function addressOf({ socketFolder, password }: Place): EmbeddedPostgres['address'] {
  return { socketFolder, user, password, database: 'postgres' }
}

/** @throws EmbeddedPostgresError when the server is there, and does not know our secret */
async function answers(place: Place): Promise<boolean> {
  const client = new pg.Client({
    host: place.socketFolder,
    port,
    user,
    password: place.password,
    database: 'postgres',
    connectionTimeoutMillis: 2000,
  })
  client.on('error', () => undefined)
  try {
    await client.connect()
    return true
  } catch (error) {
    if (!hasCode(error, invalidPassword)) return false
    throw new EmbeddedPostgresError(
      `${passwordFile(place.folder)} is not the secret that ${place.cluster} was made with: put the right one back (it is in any copy of that folder)`,
    )
  } finally {
    await client.end().catch(() => undefined)
  }
}

/** [PostgreSQL, Appendix A, class 28] */
const invalidPassword = '28P01'

function hasCode(error: unknown, code: string): boolean {
  return error instanceof Error && 'code' in error && error.code === code
}

/**
 * Looks for what an earlier run left: a server that works is returned, one that recovers is waited for; one that is
 * stopping, and backends without their server (they hold shared memory, and a new server would refuse to start),
 * are waited for a while and then ended.
 */
async function findRunning(place: Place, { deadline, cut }: Limits): Promise<number | undefined> {
  const pid = await serverPid(place.cluster)
  const patience = (await recovers(place.cluster))
    ? deadline
    : Math.min(deadline, Date.now() + patienceMs)
  for (; ; await sleep(pollMs)) {
    cut.throwIfAborted()
    const left = postgresProcessesIn(place.cluster).map((each) => each.pid)
    if (left.length === 0) {
      await removeDeadLocks(place, pid)
      return undefined
    }
    if (left.includes(pid) && (await answers(place))) return pid
    if (Date.now() < patience) continue
    for (const each of left) signal(each, 'SIGQUIT')
    if (Date.now() > deadline) throw leftRunning(left)
  }
}

function leftRunning(pids: readonly number[]): EmbeddedPostgresError {
  return new EmbeddedPostgresError(
    `PostgreSQL processes of an earlier run do not end (pids ${pids.join(', ')}): end them, then start again`,
  )
}

/** The server that the cluster's lock file names; NaN without one. */
async function serverPid(cluster: string): Promise<number> {
  return Number((await readLockFile(cluster))[0])
}

async function recovers(cluster: string): Promise<boolean> {
  return (await readLockFile(cluster))[statusLine]?.trim() === 'starting'
}

async function readLockFile(cluster: string): Promise<readonly (string | undefined)[]> {
  return (await readIfThere(join(cluster, 'postmaster.pid')))?.split('\n') ?? []
}

/** Of `postmaster.pid`, counted from 0. [postgres, src/include/utils/pidfile.h] */
const statusLine = 7

/**
 * A killed server whose new parent does not reap it (process 1 of many containers) would count as running for
 * ever: PostgreSQL only asks whether its pid exists. Everything else about the lock file is PostgreSQL's own.
 */
async function removeDeadLocks({ cluster, socketFolder }: Place, pid: number): Promise<void> {
  const status = await readIfThere(`/proc/${pid}/stat`)
  if (status === undefined || !/\) Z /.test(status)) return
  for (const lock of [
    join(cluster, 'postmaster.pid'),
    join(socketFolder, `.s.PGSQL.${port}.lock`),
  ]) {
    await rm(lock, { force: true })
  }
}

function adopt(place: Place, pid: number): EmbeddedPostgres {
  return createServer(place, { pid, exited: gone(pid, place.cluster) })
}

function createServer(
  place: Place,
  { pid, exited }: { readonly pid: number; readonly exited: Promise<void> },
): EmbeddedPostgres {
  let isGone = false
  void exited.then(() => {
    isGone = true
  })
  return {
    address: addressOf(place),
    pid,
    exited,
    async stop(deadlineMs) {
      // Its pid may be another program's by now.
      if (isGone) return
      signal(pid, 'SIGINT')
      const abandoned = new AbortController()
      const quit = sleep(deadlineMs, undefined, { signal: abandoned.signal }).then(
        () => signal(pid, 'SIGQUIT'),
        () => undefined,
      )
      await exited
      abandoned.abort()
      await quit
    },
  }
}

async function gone(pid: number, cluster: string): Promise<void> {
  while (isPostgresIn(pid, cluster)) await sleep(5 * pollMs, undefined, { ref: false })
}

async function collect(child: ChildProcess): Promise<string> {
  let text = ''
  child.stderr?.on('data', (chunk: Buffer) => {
    text += chunk.toString()
  })
  await new Promise<void>((done, fail) => {
    child.once('close', () => done())
    child.once('error', fail)
  })
  return text
}

/** The last line of a log that says what is wrong. */
function lastComplaint(text: string): string {
  const lines = text.split('\n').filter((line) => line.trim() !== '')
  const complaint = lines.findLast((line) => /FATAL|PANIC|ERROR|error:/.test(line)) ?? lines.at(-1)
  return complaint?.trim() ?? 'it said nothing'
}

async function isThere(path: string): Promise<boolean> {
  return (await statIfThere(path)) !== undefined
}

async function statIfThere(path: string): Promise<Stats | undefined> {
  try {
    return await lstat(path)
  } catch (error) {
    if (isMissing(error)) return undefined
    throw error
  }
}

async function readIfThere(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, 'utf8')
  } catch (error) {
    if (isMissing(error)) return undefined
    throw error
  }
}
