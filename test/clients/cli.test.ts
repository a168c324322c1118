import assert from 'node:assert/strict'
import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { digestOf } from '../../shared/oci/digest.ts'
import { startUpstream } from '../kit/upstream.ts'
import { fillHub } from './hub.ts'
import { createPrivateProject, printed, pushRandomImage, runClient } from './images.ts'
import { printedFile, startOutport, subfolder, waitForLog, type Outport } from './outport.ts'
import type { RunOptions } from './process.ts'
import { requireRoot, requireTools } from './tools.ts'

const timeout = 180_000

const client =
  (outport: Outport) =>
  async (command: readonly [string, ...string[]], options: RunOptions = {}) =>
    printed(await runClient(outport, command, options))

test(
  'crane pushes, lists, copies and deletes at the primary, and pulls through the edge',
  { timeout },
  async (t) => {
    if (!requireTools(t, 'crane')) return
    const outport = await startOutport(t)
    const use = client(outport)
    const image = `${outport.primary}/library/app`
    const digest = await pushRandomImage(outport, `${image}:v1`)
    await use(['crane', 'tag', '--insecure', `${image}:v1`, 'v2'])
    assert.deepEqual((await use(['crane', 'ls', '--insecure', image])).trim().split('\n'), [
      'v1',
      'v2',
    ])
    await use(['crane', 'copy', '--insecure', `${image}:v1`, `${outport.primary}/library/copy:v1`])
    const through = `${outport.edge}/library/app:v1`
    assert.equal((await use(['crane', 'digest', '--insecure', through])).trim(), digest)
    const tar = join(await subfolder(outport, 'pulled'), 'app.tar')
    await use(['crane', 'pull', '--insecure', through, tar])
    assert.ok((await readFile(tar)).length > 4 << 20)
    await use(['crane', 'delete', '--insecure', `${image}@${digest}`])
    const gone = await runClient(outport, ['crane', 'digest', '--insecure', `${image}:v1`])
    assert.notEqual(gone.code, 0)
  },
)

test(
  'skopeo copies a private image in and through the edge over TLS, and refuses to without the CA',
  { timeout },
  async (t) => {
    if (!requireTools(t, 'skopeo', 'crane', 'curl') || !requireRoot(t)) return
    const outport = await startOutport(t, { tls: true })
    const use = client(outport)
    await createPrivateProject(outport, 'secret')
    const digest = await pushRandomImage(outport, `${outport.primary}/secret/app:v1`)
    const policy = join(await subfolder(outport, 'skopeo'), 'policy.json')
    await writeFile(policy, JSON.stringify({ default: [{ type: 'insecureAcceptAnything' }] }))
    const credentials = `admin:${outport.password}`
    const authfile = join(await subfolder(outport, 'skopeo'), 'auth.json')
    for (const host of [outport.primary, outport.edge]) {
      await use(
        ['skopeo', 'login', '--authfile', authfile, '-u', 'admin', '--password-stdin', host],
        { input: outport.password },
      )
    }
    const skopeo = ['skopeo', '--policy', policy] as const
    const copied = `docker://${outport.primary}/secret/copy:v1`
    await use([
      ...skopeo,
      'copy',
      '--authfile',
      authfile,
      `docker://${outport.primary}/secret/app:v1`,
      copied,
    ])
    const folder = await subfolder(outport, 'copied')
    await use([
      ...skopeo,
      'copy',
      '--authfile',
      authfile,
      `docker://${outport.edge}/secret/copy:v1`,
      `dir:${folder}`,
    ])
    assert.ok((await readFile(join(folder, 'manifest.json'), 'utf8')).includes('layers'))
    const inspected = await use([
      ...skopeo,
      'inspect',
      '--authfile',
      authfile,
      `docker://${outport.edge}/secret/app:v1`,
    ])
    assert.ok(inspected.includes(digest))
    const untrusting = await runClient(
      outport,
      [...skopeo, 'inspect', '--creds', credentials, `docker://${outport.edge}/secret/app:v1`],
      { trusted: false },
    )
    assert.match(untrusting.stderr, /x509|certificate/)
    const stranger = await runClient(outport, [
      ...skopeo,
      'inspect',
      '--no-creds',
      `docker://${outport.edge}/secret/app:v1`,
    ])
    assert.notEqual(stranger.code, 0)
  },
)

test(
  'skopeo copies images of docker.io and of the primary by the registries.conf that up prints',
  { timeout },
  async (t) => {
    if (!requireTools(t, 'skopeo', 'crane')) return
    const hub = await startUpstream()
    t.after(() => hub.close())
    const outport = await startOutport(t, { dockerHub: hub.url.origin })
    const use = client(outport)
    const digest = await fillHub(outport, hub)
    const own = await pushRandomImage(outport, `${outport.primary}/library/app:v1`)
    const folder = await subfolder(outport, 'skopeo')
    const policy = join(folder, 'policy.json')
    await writeFile(policy, JSON.stringify({ default: [{ type: 'insecureAcceptAnything' }] }))
    // The user's counterpart of /etc/containers/registries.conf.d.
    const conf = await subfolder(outport, 'home-skopeo/.config/containers/registries.conf.d')
    await writeFile(join(conf, 'outport.conf'), printedFile(outport, 'podman, both'))
    const copied = async (image: string, name: string): Promise<string> => {
      const to = await subfolder(outport, name)
      await use(['skopeo', '--policy', policy, 'copy', `docker://${image}`, `dir:${to}`])
      return digestOf(await readFile(join(to, 'manifest.json')))
    }
    assert.equal(await copied('docker.io/library/app:v1', 'of-docker.io'), digest)
    assert.ok(hub.delivered(digest).gets > 0)
    assert.equal(await copied(`${outport.primary}/library/app:v1`, 'of-the-primary'), own)
    const byEdge = (line: string) =>
      line.includes('"program":"edge"') && line.includes('"manifest"')
    await waitForLog(outport, (text) => text.split('\n').filter(byEdge).length >= 2)
  },
)
