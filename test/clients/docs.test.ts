import assert from 'node:assert/strict'
import { readFile, stat, writeFile } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { before, test, type TestContext } from 'node:test'
import { waitFor } from '../kit/clock.ts'
import { startFedStand, type FedStand } from '../kit/fed-edge.ts'
import { tempFolder } from '../kit/temp.ts'
import { run } from './process.ts'
import { requireTools } from './tools.ts'

// The commands of the documents about the network are run as they stand there, against a primary and an edge.

const timeout = 180_000
const root = resolve(import.meta.dirname, '../..')

let stand: FedStand

before(async (t) => {
  const scopes = { 'rack-7': ['*'], 'rack-8': ['library'], 'rack-9': ['*'] }
  stand = await startFedStand(t as TestContext, { scopes })
})

interface Answer {
  readonly code: number
  readonly stdout: string
  readonly stderr: string
}

interface Place {
  readonly folder: string
  readonly metrics: string
}

/** All commands of a document, one after another; the first that fails ends them. */
async function runCommands(
  document: string,
  { folder, metrics }: Place,
  swap: Readonly<Record<string, string>> = {},
): Promise<Answer> {
  const { url, admin } = stand.primary
  const text = await readFile(join(root, 'docs', `${document}.md`), 'utf8')
  const blocks = [...text.matchAll(/^```sh\n([^]*?)^```$/gm)].map(([, block = '']) => block)
  assert.ok(blocks.length > 0, `${document} has commands`)
  const here = Object.entries({
    'https://registry.example.com': url.origin,
    'http://127.0.0.1:9091': metrics,
    ...swap,
  })
  const commands = blocks.map((block) =>
    here.reduce((written, [there, place]) => written.replaceAll(there, place), block),
  )
  const outport = `${process.execPath} ${join(root, 'deploy/launch.mjs')}`
  const script = join(folder, `${document}.sh`)
  await writeFile(
    script,
    `set -euo pipefail
cd ${folder}
outport() { ${outport} "$@" --primary ${url.origin} < /dev/null; }
${commands.join('')}`,
  )
  return run('bash', [script], {
    env: { OUTPORT_ADMIN_PASSWORD: admin.password, PASSWORD: admin.password },
  })
}

test('the commands of the documents do what these say', { timeout }, async (t) => {
  if (!requireTools(t, 'curl')) return
  const { primary } = stand
  const folder = await tempFolder(t)
  const edge = await stand.startEdge(t, { id: 'rack-7' })
  const client = primary.client(primary.admin)
  const headers = { 'Content-Type': 'application/json' }
  const call = async (method: string, path: string, body?: object): Promise<unknown> => {
    const answer = await client.request(method, `/api/v2.0${path}`, {
      headers,
      ...(body !== undefined && { body: Buffer.from(JSON.stringify(body)) }),
    })
    assert.ok(answer.status < 300, `${method} ${path}: ${answer.status}`)
    return JSON.parse(answer.body.toString())
  }
  // It says how it is when it hears of itself, and need not wait for its next lease.
  await call('PUT', '/edges/rack-7', { site: 'berlin' })
  await waitFor('the edge to be ready', async () => {
    const shown = (await call('GET', '/edges/rack-7')) as { readonly state: string }
    return shown.state === 'ready'
  })
  const place = { folder, metrics: edge.metricsUrl.origin }
  const outcome = async (document: string, swap?: Readonly<Record<string, string>>) => {
    const { code, stdout, stderr } = await runCommands(document, place, swap)
    assert.equal(code, 0, `${document}: ${stdout}${stderr}`)
    return stdout + stderr
  }

  const network = await outcome('network')
  assert.match(network, /^"internal_url":"https:\/\/127\.0\.0\.1:\d+"$/m)
  // The last of the events that made this stand may be on its way.
  assert.match(network, /^rack-7 .* ready .* (0|\d+ \(\d+s\)) /m)
  assert.match(network, /^rack-8 .* joining /m)
  assert.match(network, /^state +ready$/m)
  assert.match(network, /^outport_edge_log_connected\{.*\} 1$/m)

  assert.match(await outcome('freshness'), /^outport_edge_log_fresh\{.*\} 1$/m)

  const away = await outcome('away')
  assert.match(away, /outport_edge_log_seq\{.*\} \d+$/m)
  assert.match(away, /^The edge 'rack-9' is revoked\./m)

  await primary.createProject('team', { isPublic: false })
  const robot = await primary.createRobot('team', 'puller')
  const made = await call('POST', '/edges/tokens', { name: 'new', scope: '*' })
  const { id } = made as { readonly id: string }
  const lost = await outcome('lost-edge', { '0123456789abcdef': id })
  assert.match(lost, /^state +suspended$/m)
  assert.match(lost, /may read what is in library, team\.$/m)
  assert.match(lost, /\{"projects":\["library"\],"robots":\[\],"accept_people":true\}/)
  assert.match(lost, new RegExp(`^${id} +new +open `, 'm'))
  assert.match(lost, /makes no edge any more/)
  const secrets = join(folder, 'new-secrets')
  const [name, secret = ''] = (await readFile(secrets, 'utf8')).trim().split('\t')
  assert.equal(name, robot.username)
  assert.equal((await stat(secrets)).mode & 0o777, 0o600)
  const statusOf = async (password: string) => {
    const headers = { Authorization: `Basic ${btoa(`${robot.username}:${password}`)}` }
    return (await fetch(new URL('/service/token?service=outport', primary.url), { headers })).status
  }
  assert.deepEqual([await statusOf(secret), await statusOf(robot.password)], [200, 401])
})
