import assert from 'node:assert/strict'
import { execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import {
  chmod,
  mkdir,
  mkdtemp,
  readFile,
  rename,
  rm,
  stat,
  symlink,
  writeFile,
} from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { after, test, type TestContext } from 'node:test'
import { promisify } from 'node:util'
import { sql } from 'kysely'
import { openDatabase, type Database } from '../../../primary/store/database.ts'
import {
  startEmbeddedPostgres,
  stopLeftPostgres,
  type EmbeddedPostgres,
} from '../../../primary/store/embedded-postgres.ts'
import type { PostgresBinaries } from '../../../primary/store/postgres-binaries.ts'
import { waitFor } from '../../kit/clock.ts'
import { isAlive } from '../../kit/processes.ts'

const options = { startTimeoutMs: 60_000 }

const ends = new WeakMap<TestContext, (() => unknown)[]>()

/** Ends something when the test is over, before its folder goes: hooks run in the order in which they were added. */
function beforeRemoval(t: TestContext, end: () => unknown): void {
  ends.get(t)?.push(end)
}

async function folder(t: TestContext): Promise<string> {
  const root = await mkdtemp(join(tmpdir(), 'outport-epg-'))
  const own: (() => unknown)[] = []
  ends.set(t, own)
  t.after(async () => {
    for (const end of own) await end()
    await rm(root, { recursive: true, force: true })
  })
  return join(root, 'postgres')
}

let made: Promise<string> | undefined

/** A folder with a cluster that was used before: a first start takes longer than most of these tests. */
async function cluster(t: TestContext): Promise<string> {
  const root = await folder(t)
  made ??= makeCluster()
  await promisify(execFile)('cp', ['-a', await made, root])
  return root
}

async function makeCluster(): Promise<string> {
  const root = join(await mkdtemp(join(tmpdir(), 'outport-epg-')), 'postgres')
  const server = await startEmbeddedPostgres({ folder: root, ...options })
  await server.stop(10_000)
  return root
}

after(async () => {
  if (made !== undefined) await rm(dirname(await made), { recursive: true, force: true })
})

async function withDatabase<T>(
  server: EmbeddedPostgres,
  use: (database: Database) => Promise<T>,
): Promise<T> {
  const database = await openDatabase({ address: server.address, poolSize: 2 })
  try {
    return await use(database)
  } finally {
    await database.close()
  }
}

const settingOf =
  (name: string) =>
  async ({ records }: Database) =>
    (await sql<{ value: string }>`SELECT current_setting(${name}) AS value`.execute(records))
      .rows[0]?.value

test('it starts, keeps its records, syncs, listens on no network, and stops', async (t) => {
  const root = await folder(t)
  const first = await startEmbeddedPostgres({ folder: root, ...options })
  await withDatabase(first, async ({ records }) => {
    await sql`CREATE TABLE kept (id int)`.execute(records)
  })
  assert.equal(await withDatabase(first, settingOf('fsync')), 'on')
  assert.equal(await withDatabase(first, settingOf('listen_addresses')), '')
  await first.stop(10_000)
  const second = await startEmbeddedPostgres({ folder: root, ...options })
  beforeRemoval(t, () => second.stop(10_000))
  await withDatabase(second, ({ records }) => sql`SELECT id FROM kept`.execute(records))
})

test('its secret and its socket are for its user alone, and the secret is in no argument', async (t) => {
  const root = await cluster(t)
  const server = await startEmbeddedPostgres({ folder: root, ...options })
  beforeRemoval(t, () => server.stop(10_000))
  const { password, socketFolder } = server.address
  assert.equal((await stat(join(root, 'password'))).mode & 0o777, 0o600)
  assert.equal((await stat(socketFolder)).mode & 0o777, 0o700)
  assert.ok(!(await readFile(`/proc/${server.pid}/cmdline`, 'utf8')).includes(password))
  assert.ok(!(await readFile(`/proc/${server.pid}/environ`, 'utf8')).includes(password))
  await assert.rejects(
    openDatabase({ address: { ...server.address, password: 'wrong' }, poolSize: 1 }),
  )
})

test('a server that a killed primary left running is adopted', async (t) => {
  const root = await cluster(t)
  const first = await startEmbeddedPostgres({ folder: root, ...options })
  const second = await startEmbeddedPostgres({ folder: root, ...options })
  assert.equal(second.pid, first.pid)
  await second.stop(10_000)
  await first.exited
})

test('after its server was killed it starts again', async (t) => {
  const root = await cluster(t)
  const first = await startEmbeddedPostgres({ folder: root, ...options })
  const database = await openDatabase({
    address: first.address,
    poolSize: 2,
    onIdleError: () => undefined,
  })
  await sql`SELECT 1`.execute(database.records)
  process.kill(first.pid, 'SIGKILL')
  await first.exited
  await database.close().catch(() => undefined)
  const second = await startEmbeddedPostgres({ folder: root, ...options })
  beforeRemoval(t, () => second.stop(10_000))
  await withDatabase(second, ({ records }) => sql`SELECT 1`.execute(records))
})

test('records of another PostgreSQL are refused with what to do', async (t) => {
  const root = await cluster(t)
  const server = await startEmbeddedPostgres({ folder: root, ...options })
  await server.stop(10_000)
  await writeFile(join(root, 'cluster', 'PG_VERSION'), '19\n')
  await assert.rejects(
    startEmbeddedPostgres({ folder: root, ...options }),
    /newer version of Outport/,
  )
})

test('it is found again when its folder is reached by another path', async (t) => {
  const root = await cluster(t)
  const first = await startEmbeddedPostgres({ folder: root, ...options })
  const link = `${root}-link`
  await symlink(root, link)
  const second = await startEmbeddedPostgres({ folder: link, ...options })
  assert.equal(second.pid, first.pid)
  await second.stop(10_000)
  await first.exited
})

test('its folder may be moved, also when the path is too long for a socket', async (t) => {
  const root = await cluster(t)
  const long = `${root}-${'x'.repeat(100)}`
  const sockets: string[] = []
  for (const [from, to] of [
    [undefined, root],
    [root, long],
    [long, `${long}y`],
  ] as const) {
    if (from !== undefined) await rename(from, to)
    const server = await startEmbeddedPostgres({ folder: to, ...options })
    sockets.push(server.address.socketFolder)
    await server.stop(10_000)
    if (from !== undefined) await assert.rejects(stat(from), { code: 'ENOENT' })
  }
  t.after(() => Promise.all(sockets.map((path) => rm(path, { recursive: true, force: true }))))
  assert.equal(new Set(sockets).size, 3)
})

test('a folder that others can open is never trusted with the socket', async (t) => {
  const root = `${await folder(t)}-${'x'.repeat(100)}`
  const first = await startEmbeddedPostgres({ folder: root, ...options })
  await first.stop(10_000)
  const { socketFolder } = first.address
  await chmod(socketFolder, 0o777)
  const second = await startEmbeddedPostgres({ folder: root, ...options })
  await second.stop(10_000)
  t.after(async () => {
    for (const path of [socketFolder, second.address.socketFolder])
      await rm(path, { recursive: true })
  })
  assert.notEqual(second.address.socketFolder, socketFolder)
})

test('a secret that is not its own is said, and nothing is left running', async (t) => {
  const root = await cluster(t)
  const server = await startEmbeddedPostgres({ folder: root, ...options })
  await server.stop(10_000)
  await writeFile(join(root, 'password'), 'another')
  await assert.rejects(startEmbeddedPostgres({ folder: root, ...options }), /is not the secret/)
  await writeFile(join(root, 'password'), server.address.password)
  const again = await startEmbeddedPostgres({ folder: root, ...options })
  await again.stop(10_000)
})

test('as root it runs under a private folder where namespaces are forbidden, too', async (t) => {
  if (process.getuid?.() !== 0) return t.skip('only for root')
  const root = await folder(t)
  const tools = `${root}-tools`
  await mkdir(tools)
  await writeFile(join(tools, 'unshare'), '#!/bin/sh\nexit 1\n', { mode: 0o755 })
  const path = process.env['PATH']
  process.env['PATH'] = `${tools}:${path}`
  t.after(() => {
    process.env['PATH'] = path
  })
  for (let start = 0; start < 2; start++) {
    const server = await startEmbeddedPostgres({ folder: root, ...options })
    assert.match(await readFile(`/proc/${server.pid}/status`, 'utf8'), /^Uid:\t65534\t/m)
    await server.stop(10_000)
  }
})

/** Programs of shell lines instead of PostgreSQL's; `$FOLDER` is where they leave what the test looks at. */
async function standIns(
  root: string,
  lines: { readonly initdb: string; readonly postgres?: string },
): Promise<PostgresBinaries> {
  const bin = `${root}-bin`
  await mkdir(bin)
  const write = async (name: string, line: string) => {
    await writeFile(join(bin, name), `#!/bin/sh\n${line}\n`, { mode: 0o755 })
    return join(bin, name)
  }
  return {
    initdb: await write('initdb', lines.initdb),
    postgres: await write('postgres', lines.postgres ?? 'exit 1'),
    env: { PATH: process.env['PATH'] ?? '', FOLDER: bin },
  }
}

async function written(path: string): Promise<string | undefined> {
  const text = await readFile(path, 'utf8').catch(() => '')
  return text.endsWith('\n') ? text : undefined
}

test('a start that is broken off ends what it began: initdb, and a server that does not answer yet', async (t) => {
  for (const begun of ['initdb', 'postgres'] as const) {
    const root = await folder(t)
    await mkdir(root)
    const waits = `echo $$ > "$FOLDER/pid"; exec sleep 1000`
    const binaries = await standIns(root, { initdb: 'exit 0', [begun]: waits })
    const cut = new AbortController()
    const starting = startEmbeddedPostgres({
      folder: root,
      ...options,
      binaries,
      signal: cut.signal,
    })
    const ended = assert.rejects(starting, { message: 'enough' })
    const pid = Number(await waitFor(begun, () => written(`${root}-bin/pid`)))
    assert.ok(isAlive(pid))
    cut.abort(new Error('enough'))
    await ended
    assert.equal(isAlive(pid), false)
  }
})

test('a full disk is the error of a full disk, after one try', async (t) => {
  const complaint = 'echo "FATAL:  could not write to file: No space left on device" >&2; exit 1'
  const root = await folder(t)
  await mkdir(root)
  const binaries = await standIns(root, {
    initdb: `echo try >> "$FOLDER/tries"; ${complaint}`,
    postgres: complaint,
  })
  const full = { code: 'ENOSPC', path: root }
  await assert.rejects(startEmbeddedPostgres({ folder: root, ...options, binaries }), full)
  assert.equal(await written(`${root}-bin/tries`), 'try\n')
  await mkdir(join(root, 'cluster'))
  await assert.rejects(startEmbeddedPostgres({ folder: root, ...options, binaries }), full)
})

test("a stranger's process in its folder is left alone", async (t) => {
  const root = await cluster(t)
  const first = await startEmbeddedPostgres({ folder: root, ...options })
  await first.stop(10_000)
  const stranger = spawn('sleep', ['1000'], { cwd: join(root, 'cluster') })
  await once(stranger, 'spawn')
  t.after(() => stranger.kill())
  const second = await startEmbeddedPostgres({ folder: root, ...options })
  await second.stop(10_000)
  await stopLeftPostgres(root, 10_000)
  assert.deepEqual([stranger.exitCode, stranger.signalCode], [null, null])
})

test('what a killed primary left is ended: its server, or the backends of a server that was killed', async (t) => {
  await stopLeftPostgres(await folder(t), 10_000)
  const root = await cluster(t)
  const first = await startEmbeddedPostgres({ folder: root, ...options })
  const database = await openDatabase({
    address: first.address,
    poolSize: 2,
    onIdleError: () => undefined,
  })
  await sql`SELECT 1`.execute(database.records)
  await stopLeftPostgres(root, 10_000)
  await first.exited
  await database.close().catch(() => undefined)

  const second = await startEmbeddedPostgres({ folder: root, ...options })
  process.kill(second.pid, 'SIGKILL')
  await stopLeftPostgres(root, 10_000)
  const third = await startEmbeddedPostgres({ folder: root, ...options })
  await third.stop(10_000)
})
