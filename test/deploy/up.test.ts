import assert from 'node:assert/strict'
import { readFile, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test, type TestContext } from 'node:test'
import { waitFor } from '../kit/clock.ts'
import { tempFolder } from '../kit/temp.ts'
import { childrenOf, gone, startProgram, type Program } from './program.ts'

interface Urls {
  readonly primary: string
  readonly edge: string
  readonly mirror: string
  readonly metrics: { readonly primary: string; readonly edge: string }
}

interface Started {
  readonly program: Program
  readonly data: string
  readonly urls: Urls
  readonly children: readonly number[]
}

function startUp(
  t: TestContext,
  data: string,
  env: Readonly<Record<string, string>> = {},
): Program {
  return startProgram(t, ['test/deploy/stand-in-up.ts', data, '--json'], { env })
}

async function untilReady(program: Program): Promise<Urls> {
  const line = await waitFor('the line of JSON', () => {
    if (program.child.exitCode !== null) throw new Error(`up ended: ${program.stderr()}`)
    return program.stdout().includes('\n') && program.stdout()
  })
  return JSON.parse(line) as Urls
}

async function startedUp(
  t: TestContext,
  env: Readonly<Record<string, string>> = {},
): Promise<Started> {
  const data = join(await tempFolder(t), 'data')
  const program = startUp(t, data, env)
  const urls = await untilReady(program)
  return { program, data, urls, children: childrenOf(program.pid) }
}

async function pidAt(url: string): Promise<number> {
  return Number(await (await fetch(url)).text())
}

async function journalOf(data: string): Promise<string[]> {
  return (await readFile(join(data, 'journal'), 'utf8')).trimEnd().split('\n')
}

test('one line of JSON says where everything is, once it is there; SIGTERM stops edge, then primary, with code 0', async (t) => {
  const { program, data, urls, children } = await startedUp(t)
  assert.match(program.stdout(), /^\{.*\}\n$/)
  assert.deepEqual(Object.keys(urls), ['primary', 'edge', 'mirror', 'metrics'])
  const served = [urls.primary, urls.edge, urls.mirror, urls.metrics.primary, urls.metrics.edge]
  const pids = await Promise.all(served.map(pidAt))
  assert.equal(new Set(pids).size, 2)
  assert.deepEqual([...new Set(pids)].sort(), [...children].sort())

  program.child.kill('SIGTERM')
  assert.equal(await program.ended(), 0)
  for (const pid of children) await gone(pid)
  const journal = await journalOf(data)
  assert.deepEqual(journal.slice(-2), ['edge stopped', 'primary stopped'])
  assert.ok(journal.includes(`edge primary ${urls.primary}`))
  // The one line is all there is on the standard output; logs are on the other.
  assert.match(program.stdout(), /^\{.*\}\n$/)
  assert.match(program.stderr(), /"program":"edge"/)
})

test('one press of Ctrl-C, however often it arrives, is a graceful stop', async (t) => {
  const { program, data } = await startedUp(t)
  for (const pid of [program.pid, ...childrenOf(program.pid), program.pid]) {
    process.kill(pid, 'SIGINT')
  }
  assert.equal(await program.ended(), 0)
  assert.deepEqual((await journalOf(data)).slice(-2), ['edge stopped', 'primary stopped'])
})

test('no child is left when up itself is killed, and the next start waits for their end', async (t) => {
  const { program, data, children } = await startedUp(t)
  program.child.kill('SIGKILL')
  await program.ended()
  const next = startUp(t, data)
  await untilReady(next)
  for (const pid of children) await gone(pid)
})

test('nothing is left when the npm that started it is killed', async (t) => {
  const data = join(await tempFolder(t), 'data')
  const npm = startProgram(t, ['test/deploy/npm-stand-in.ts', data, '--json'])
  await untilReady(npm)
  const [up = 0] = childrenOf(npm.pid)
  const started = [up, ...childrenOf(up)]
  assert.equal(started.length, 3)
  npm.child.kill('SIGKILL')
  for (const pid of started) await gone(pid)
  assert.deepEqual((await journalOf(data)).slice(-2), ['edge stopped', 'primary stopped'])
})

test('a child that is killed comes back at its ports, and up goes on', async (t) => {
  const { program, urls } = await startedUp(t)
  for (const url of [urls.primary, urls.edge]) {
    const killed = await pidAt(url)
    process.kill(killed, 'SIGKILL')
    const next = await waitFor('the next one', () => pidAt(url).catch(() => undefined))
    assert.notEqual(next, killed)
  }
  assert.equal(program.child.exitCode, null)
  const line = await waitFor('a line about it', () =>
    /^.*the primary was ended by SIGKILL.*$/m.exec(program.stderr())?.at(0),
  )
  assert.match(line, /"program":"up".*"child":"primary"/)
  assert.equal(line.split('"program"').length, 2)
  program.child.kill('SIGTERM')
  assert.equal(await program.ended(), 0)
})

test('a child that keeps ending is given up, and nothing is left', async (t) => {
  const { program, children } = await startedUp(t, { STAND_IN_DIE: 'edge' })
  assert.equal(await program.ended(), 1)
  assert.match(program.stderr(), /the edge ended with code 3, 5 times in a minute/)
  for (const pid of children) await gone(pid)
})

test('a child that cannot start is told in one line, with exit code 1', async (t) => {
  const folder = await tempFolder(t)
  const program = startUp(t, folder, { STAND_IN_FAIL: 'edge' })
  assert.equal(await program.ended(), 1)
  assert.match(program.stderr(), /^outport: the stand-in cannot start$/m)
  assert.doesNotMatch(program.stderr(), /^ +at /m)
  assert.deepEqual((await journalOf(folder)).at(-1), 'primary stopped')
})

test('another instance on the same data is refused by its pid', async (t) => {
  const { program, data } = await startedUp(t)
  const second = startUp(t, data)
  assert.equal(await second.ended(), 1)
  assert.match(
    second.stderr(),
    new RegExp(`^outport: .*\\b${program.pid}\\b.*another instance.*\\n$`),
  )
})

test('data of a newer version is refused, and left as it is', async (t) => {
  const folder = await tempFolder(t)
  await writeFile(join(folder, 'version'), '7\n')
  const program = startUp(t, folder)
  assert.equal(await program.ended(), 1)
  assert.match(program.stderr(), /^outport: .*newer version of Outport.*\n$/)
  assert.equal(await readFile(join(folder, 'version'), 'utf8'), '7\n')
})

test('secrets are in 0600 files only: not printed, not in the environment of a child', async (t) => {
  const { program, data } = await startedUp(t, { OUTPORT_ADMIN_PASSWORD: 'Planted-Secret-1' })
  const secret = (await readFile(join(data, 'edge-secret'), 'utf8')).trim()
  assert.equal((await stat(join(data, 'edge-secret'))).mode & 0o777, 0o600)
  program.child.kill('SIGTERM')
  await program.ended()
  for (const planted of [secret, 'Planted-Secret-1']) {
    assert.ok(!program.stdout().includes(planted))
    assert.ok(!program.stderr().includes(planted))
  }
  assert.deepEqual(
    new Set((await journalOf(data)).filter((line) => line.includes('environ'))),
    new Set(['primary environ false', 'edge environ false']),
  )
})

test('what to type next has real URLs, and names the file of the password where nobody watches', async (t) => {
  const folder = await tempFolder(t)
  const program = startProgram(t, ['test/deploy/stand-in-up.ts', folder])
  const text = await waitFor('the text', () => {
    return /registry\.mirror.*registry\.mirror/s.test(program.stdout()) && program.stdout()
  })
  assert.ok(text.includes(join(folder, 'admin-password')))
  const password = (await readFile(join(folder, 'admin-password'), 'utf8')).trim()
  assert.ok(password.length >= 20 && !text.includes(password))
  const registry = /docker login -u admin (127\.0\.0\.1:\d+)/.exec(text)?.[1] ?? ''
  assert.ok(text.includes(`docker push ${registry}/library/IMAGE`))
  assert.ok(text.includes(`certs.d/${registry}/hosts.toml`))
  assert.match(text, /"registry-mirrors":\["http:\/\/127\.0\.0\.1:\d+"\]/)
  await fetch(`http://${registry}`)
})

test('a random password is kept: the second start has the same', async (t) => {
  const folder = await tempFolder(t)
  const passwords: string[] = []
  for (let start = 0; start < 2; start++) {
    const program = startUp(t, folder)
    await untilReady(program)
    passwords.push(await readFile(join(folder, 'admin-password'), 'utf8'))
    program.child.kill('SIGTERM')
    assert.equal(await program.ended(), 0)
  }
  assert.equal(passwords[0], passwords[1])
})

test('a stop is heard while a program starts', async (t) => {
  for (const slow of ['primary', 'edge']) {
    const data = join(await tempFolder(t), 'data')
    const program = startUp(t, data, { STAND_IN_SLOW: slow })
    await waitFor('the start', async () =>
      (await journalOf(data).catch((): string[] => [])).includes(`${slow} starting`),
    )
    program.child.kill('SIGINT')
    assert.equal(await program.ended(), 0)
    assert.ok((await journalOf(data)).includes(`${slow} broken off`))
  }
})

test('a program that fails at its stop is told by the exit code', async (t) => {
  const { program } = await startedUp(t, { STAND_IN_BREAK: 'edge' })
  program.child.kill('SIGTERM')
  assert.equal(await program.ended(), 1)
})

async function configured(t: TestContext, timeouts = {}): Promise<string> {
  const file = join(await tempFolder(t), 'outport.yaml')
  const options = { metrics: { port: 0 }, timeouts }
  // JSON is YAML.
  await writeFile(
    file,
    JSON.stringify({ primary: { internal: { port: 0 }, ...options }, edge: options }),
  )
  return file
}

test('a configuration file that was changed since says nothing until the next start', async (t) => {
  const file = await configured(t)
  const { program, urls } = await startedUp(t, { OUTPORT_CONFIG: file })
  await writeFile(file, 'edge: [broken')
  const killed = await pidAt(urls.edge)
  process.kill(killed, 'SIGKILL')
  await waitFor('the next edge', () => pidAt(urls.edge).catch(() => undefined))
  program.child.kill('SIGTERM')
  assert.equal(await program.ended(), 0)
})

test('transfers may go on for the configured time after SIGTERM, for seconds after Ctrl-C', async (t) => {
  const file = await configured(t, { drain: '20s' })
  for (const { signal, longest } of [
    { signal: 'SIGTERM', longest: 20_000 },
    { signal: 'SIGINT', longest: 5_000 },
  ] as const) {
    const { program, data } = await startedUp(t, { OUTPORT_CONFIG: file })
    program.child.kill(signal)
    assert.equal(await program.ended(), 0)
    const text = await readFile(join(data, 'deadlines'), 'utf8')
    const [edge = 0, primary = 0] = text.trim().split('\n').map(Number)
    assert.ok(edge <= longest && edge > longest - 3_000, `${signal}: ${edge}`)
    // What the edge took is over for the primary, too.
    assert.ok(primary < edge, `${signal}: ${primary}`)
  }
})
