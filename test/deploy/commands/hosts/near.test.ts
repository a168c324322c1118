import assert from 'node:assert/strict'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { readFile, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, test, type TestContext } from 'node:test'
import { hosts } from '../../../../deploy/commands/hosts.ts'
import { createNear } from '../../../../deploy/commands/hosts/near.ts'
import { writeNearest } from '../../../../deploy/commands/hosts/watch.ts'
import type { Member } from '../../../../shared/discovery/members.ts'
import { waitFor } from '../../../kit/clock.ts'
import { edgeEntry, startFakeConsul } from '../../../kit/consul.ts'
import { tempFolder } from '../../../kit/temp.ts'
import { runProgram, startProgram } from '../../program.ts'

/** Edges that answer after so many milliseconds, or not at all. */
function createStand(distances: Readonly<Record<string, number | undefined>>) {
  const stand = { distances, members: [] as readonly Member[], asked: [] as string[] }
  const near = createNear({
    edges: () =>
      Promise.resolve(
        Object.keys(stand.distances).map((id) => {
          const host = `${id.split('_')[0] ?? ''}.example`
          const url = `https://${host}`
          return { id, url, site: undefined, endpoint: { url, host } }
        }),
      ),
    members: () => stand.members,
    pings: {
      ping(url) {
        const [, id = ''] = /^https:\/\/(\w+)\./.exec(url) ?? []
        stand.asked.push(id)
        return Promise.resolve(stand.distances[id])
      },
    },
    site: undefined,
    machine: 'm',
    now: () => 0,
  })
  const look = async () => (await near.look()).map(({ host }) => host.split('.')[0]).join(' ')
  const say = (estimates: Readonly<Record<string, number>>) => {
    stand.members = Object.entries(estimates).map(([id, estimateMs]) => ({
      ...{ id, estimateMs, url: `https://${id}.example`, node: id },
      ...{ site: undefined, region: undefined, version: '1' },
    }))
  }
  return { stand, look, say }
}

describe('the edges that a client is told of', () => {
  test('are the two nearest by what is measured, of those that answer', async () => {
    const { look } = createStand({ far: 80, near: 5, dead: undefined, mid: 20 })
    assert.equal(await look(), 'near mid')
  })

  test('are two places, whoever says to be there', async () => {
    const { look } = createStand({ a: 5, a_too: 5, b: 20 })
    assert.equal(await look(), 'a b')
  })

  test('change when one is silent twice, and when one comes that is much nearer', async () => {
    const { stand, look } = createStand({ a: 10, b: 40, c: 80 })
    assert.equal(await look(), 'a b')
    stand.distances = { a: undefined, b: 40, c: 80 }
    assert.equal(await look(), 'a b', 'one silence may be an accident')
    assert.equal(await look(), 'b c')
    stand.distances = { a: 10, b: 40, c: 80 }
    assert.equal(await look(), 'a b', 'it is back')
    stand.distances = { a: 10, b: 40, c: 80, d: 1 }
    assert.equal(await look(), 'd a')
  })

  test('stay as they were when nobody answers', async () => {
    const { stand, look } = createStand({ a: 10, b: 40 })
    assert.equal(await look(), 'a b')
    stand.distances = { a: undefined, b: undefined }
    for (let count = 0; count < 4; count++) assert.equal(await look(), 'a b')
  })

  test('are none when nobody ever answered', async () => {
    assert.equal(await createStand({ a: undefined }).look(), '')
  })

  test('are ordered by Consul where it knows them, and those alone are asked', async () => {
    const { stand, look, say } = createStand({ a: 9, b: 9, c: undefined, d: 9, e: 9 })
    say({ a: 80, b: 20, c: 1, d: 5 })
    assert.equal(await look(), 'd b', 'c is nearest, and does not answer')
    assert.deepEqual(stand.asked.toSorted(), ['b', 'c', 'd'])
    say({ a: 80, b: 20 })
    assert.equal(await look(), 'b a', 'd is not healthy any more')
    say({})
    assert.equal((await look()).split(' ').length, 2, 'Consul knows nobody: all count')
  })
})

/** An HTTP server that says the same to everybody. */
async function startServer(t: TestContext, status: number, body: () => string = () => '{}') {
  const seen: string[] = []
  const server = createServer((request, response) => {
    seen.push(request.url ?? '')
    response.writeHead(status, { 'content-type': 'application/json' })
    response.end(body())
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  t.after(() => {
    server.close()
    server.closeAllConnections()
  })
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, seen, server }
}

/** Two edges and a primary that tells of them, which Consul says are 5 and 20 ms away. */
async function startWorld(t: TestContext) {
  const [one, two, rogue] = await Promise.all(
    [401, 200, 200].map((status) => startServer(t, status)),
  )
  assert.ok(one && two && rogue)
  const told = [
    { id: 'e1', url: one.url, site: 'berlin' },
    { id: 'e2', url: two.url, site: 'berlin' },
    { id: 'e3', url: 'http://[::1' },
  ]
  const primary = await startServer(t, 200, () => JSON.stringify({ edges: told }))
  const consul = await startFakeConsul(t)
  const at = (ms: number) => ({ vec: [ms / 1000, 0], height: 0, adjustment: 0, error: 0.1 })
  consul.setCoordinates({ here: at(0), near: at(5), far: at(20), nearest: at(1) })
  const entry = (id: string, node: string, url: string) => edgeEntry(id, { node, meta: { url } })
  const good = [entry('e1', 'far', one.url), entry('e2', 'near', two.url)]
  return { one, two, rogue, primary, consul, entry, good, folder: await tempFolder(t) }
}

describe('outport hosts --near', () => {
  test('writes the nearest healthy edge first; what is rogue in Consul is told and passed over', async (t) => {
    const { one, two, rogue, primary, consul, entry, good, folder } = await startWorld(t)
    consul.setEntries('outport-edge', [
      ...good,
      entry('stranger', 'nearest', rogue.url),
      entry('e1', 'nearest', `${one.url}\n[host."${rogue.url}"]`),
      entry('e9', 'nearest', `${two.url}/`),
    ])
    const run = (line: string) =>
      runProgram(t, ['deploy/outport.ts', 'hosts', ...line.split(' ')], { cwd: folder })
    const common = `--near --primary ${primary.url} --plain-http --consul ${consul.url.origin}`
    const { code, stderr, stdout } = await run(`containerd ${common} --root certs.d`)
    assert.equal(code, 0, stderr)
    assert.match(stdout, /hosts\.toml: written/)
    const host = new URL(primary.url).host
    const text = await readFile(join(folder, 'certs.d', host, 'hosts.toml'), 'utf8')
    const named = [...text.matchAll(/^\[host\."(.*)"\]$/gm)].map(([, url]) => url)
    assert.deepEqual(named, [two.url, one.url])
    assert.ok(text.includes(`server = "${primary.url}"`))
    assert.deepEqual(stderr.match(/control-characters|not-in-roster|bad-url/g)?.toSorted(), [
      'bad-url',
      'control-characters',
      'not-in-roster',
    ])
    assert.equal(rogue.seen.length, 0)

    const shown = await run(`k3s ${common} --file registries.yaml --dry-run`)
    assert.equal(shown.code, 0, shown.stderr)
    assert.ok(shown.stdout.indexOf(two.url) < shown.stdout.indexOf(one.url))
    await assert.rejects(stat(join(folder, 'registries.yaml')))
  })

  test('--watch writes again only when others are nearer, also while primary and Consul are away', async (t) => {
    const { one, two, primary, consul, good } = await startWorld(t)
    consul.setEntries('outport-edge', good)
    const written: string[] = []
    const ending = new AbortController()
    const endpoint = (url: string) => ({ url, host: new URL(url).host })
    const watching = writeNearest({
      mirroring: { edges: [], primary: endpoint(primary.url), registries: [], skipVerify: false },
      settings: {
        watch: true,
        site: undefined,
        machine: 'm',
        consul: { url: consul.url },
      },
      plainHttp: true,
      lookMs: 20,
      signal: ending.signal,
      write(mirroring) {
        written.push(mirroring.edges.map(({ url }) => url).join(' '))
        return Promise.resolve(0)
      },
    })
    await waitFor('the first', () => written.length === 1)
    consul.break('cut')
    primary.server.close()
    primary.server.closeAllConnections()
    const looks = two.seen.length
    await waitFor('ten looks', () => two.seen.length > looks + 20)
    assert.deepEqual(written, [`${two.url} ${one.url}`])
    two.server.close()
    two.server.closeAllConnections()
    await waitFor('the next', () => written.length === 2)
    assert.equal(written[1], one.url)
    ending.abort()
    assert.equal(await watching, 0)
  })

  test('--watch ends by SIGTERM, and orders what --edge named by what it measures', async (t) => {
    const { one, two, primary, folder } = await startWorld(t)
    const edges = `--edge ${one.url} --edge ${two.url} --edge http://127.0.0.1:1`
    const line = `docker --near --watch ${edges} --primary ${primary.url} --plain-http --file d.json`
    const program = startProgram(t, ['deploy/outport.ts', 'hosts', ...line.split(' ')], {
      cwd: folder,
    })
    await waitFor('the file', () => program.stdout().includes('d.json: written'))
    program.child.kill('SIGTERM')
    assert.deepEqual([await program.ended(), program.stderr()], [0, ''])
    const { 'registry-mirrors': mirrors } = JSON.parse(
      await readFile(join(folder, 'd.json'), 'utf8'),
    ) as { readonly 'registry-mirrors': readonly string[] }
    assert.deepEqual(mirrors.toSorted(), [one.url, two.url].toSorted())
  })

  test('what does not go together is refused before anybody is asked', async () => {
    const refused: readonly (readonly [string, RegExp])[] = [
      ['containerd --near', /needs to know whose images/],
      ['k3s --near --registry docker.io', /--near needs the primary/],
      ['containerd --watch --edge https://e --primary https://p', /--watch goes with --near/],
      ['podman --consul http://c --edge https://e --primary https://p', /--consul goes with/],
      ['k3s --near --consul http://c --edge https://e --primary https://p', /leave out --edge/],
      ['k3s --near --watch --dry-run --primary https://p', /no --dry-run/],
      ['docker --near --primary https://p', /--edge-port 8082/],
      ['docker --near --edge-port 99999 --primary https://p', /is no port/],
      ['k3s --near --primary https://p --skip-verify', /not --skip-verify/],
      ['k3s --near --primary https://p --site a/b', /is no site/],
    ]
    for (const [line, message] of refused)
      await assert.rejects(hosts.main(line.split(' ')), message, line)
  })
})
