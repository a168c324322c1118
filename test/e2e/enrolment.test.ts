// First: its hook must run before the one that stops the database server.
import '../kit/at-end.ts'
import assert from 'node:assert/strict'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { before, test, type TestContext } from 'node:test'
import { runProgram, startProgram } from '../deploy/program.ts'
import { waitFor } from '../kit/clock.ts'
import { createImage, pushImage } from '../kit/images.ts'
import { startTestPrimary, type TestPrimary } from '../kit/primary.ts'
import { createRegistryClient } from '../kit/registry-client.ts'
import { tempFolder } from '../kit/temp.ts'

const outport = 'deploy/outport.ts'

let primary: TestPrimary
before(async () => {
  primary = await startTestPrimary()
})

function edges(t: TestContext, args: readonly string[]) {
  return runProgram(t, [outport, 'edges', ...args, '--primary', primary.url.origin], {
    env: { OUTPORT_ADMIN_PASSWORD: primary.admin.password },
  })
}

/** Starts an edge that joined. @returns the URL of its challenging listener */
async function startJoined(t: TestContext, data: string): Promise<string> {
  const program = startProgram(t, [outport, 'edge', '--data', data], {
    env: {
      OUTPORT_EDGE__LISTENERS__0__PORT: '0',
      OUTPORT_EDGE__LISTENERS__1__PORT: '0',
      OUTPORT_EDGE__METRICS__PORT: '0',
    },
  })
  return waitFor('the edge', () => {
    const line = program
      .stdout()
      .split('\n')
      .find((each) => each.includes('"edge started"'))
    return line && (JSON.parse(line) as { urls: { edge: string } }).urls.edge
  })
}

test('a machine becomes an edge by a token, serves, and is suspended and revoked', async (t) => {
  const folder = await tempFolder(t)
  const data = join(folder, 'data')
  const made = await edges(t, [
    ...[
      'token',
      '--name',
      'rack-7',
      '--scope',
      'library',
      '--site',
      'hall',
      '--label',
      'tier=gold',
    ],
  ])
  assert.equal(made.code, 0, made.stderr)
  const tokenFile = join(folder, 'token')
  await writeFile(tokenFile, made.stdout)
  const joined = await runProgram(t, [
    ...([outport, 'edge', 'join', primary.url.origin] as const),
    ...['--data', data, '--token-file', tokenFile],
  ])
  assert.equal(joined.code, 0, joined.stderr)

  const images = [createImage({ seed: 'one' }), createImage({ seed: 'two' })] as const
  const admin = primary.client(primary.admin)
  await pushImage(admin, 'library/one', images[0], 'v1')
  await pushImage(admin, 'library/two', images[1], 'v1')
  const client = createRegistryClient({ baseUrl: await startJoined(t, data), scheme: 'bearer' })
  t.after(() => client.close())
  const manifest = await client.request('GET', '/v2/library/one/manifests/v1')
  assert.equal(manifest.status, 200)
  for (const { digest } of images[0].blobs) {
    const blob = await client.request('GET', `/v2/library/one/blobs/${digest}`)
    assert.equal(blob.status, 200)
  }

  const listed = await edges(t, ['list'])
  const [, line = ''] = listed.stdout.split('\n')
  const [id = '', ...others] = line.split(/ {2,}/)
  assert.deepEqual([others.slice(0, 3), others.at(-1)], [['rack-7', 'hall', '-'], 'tier=gold'])
  // Its second report says that it is ready.
  assert.match(others[3] ?? '', /^(?:joining|ready)$/)
  assert.equal((await edges(t, ['suspend', id])).code, 0)
  assert.match((await edges(t, ['list'])).stdout, new RegExp(`^${id} .* suspended `, 'm'))
  const refused = await waitFor('the suspension', async () => {
    const answer = await client.request('GET', '/v2/library/two/manifests/v1')
    return answer.status !== 200 && answer
  })
  assert.ok([401, 403, 404, 503].includes(refused.status), String(refused.status))
  assert.equal((await edges(t, ['resume', id])).code, 0)
  const changed = await edges(t, ['set', id, '--label', 'arch=arm64', '--region', 'north'])
  assert.equal(changed.code, 0, changed.stderr)
  const shown = await edges(t, ['show', id])
  assert.match(shown.stdout, /^labels +arch=arm64,tier=gold$/m)
  assert.match(shown.stdout, /^projects +library$/m)
  const early = await edges(t, ['forget', id])
  assert.equal(early.code, 1)
  assert.match(early.stderr, /is not revoked/)
  assert.equal((await edges(t, ['revoke', id, '--yes'])).code, 0)
  assert.match((await edges(t, ['show', id])).stdout, /^state +revoked$/m)
  assert.equal((await edges(t, ['forget', id])).code, 0)
  const gone = await edges(t, ['show', id])
  assert.deepEqual([gone.code, gone.stdout], [1, ''])

  // The token is used up for every other machine.
  const again = await runProgram(t, [
    ...([outport, 'edge', 'join', primary.url.origin] as const),
    ...['--data', join(folder, 'other'), '--token-file', tokenFile],
  ])
  assert.equal(again.code, 1)
  assert.match(again.stderr, /^outport: .* does not take the join token: .*\n$/)
})
