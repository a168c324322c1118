import assert from 'node:assert/strict'
import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { createPrivateProject, createRobot, printed, runClient } from './images.ts'
import { startOutport, subfolder, type Outport } from './outport.ts'
import type { Result, RunOptions } from './process.ts'
import { isEdgeBlob, waitForRequests } from './requests.ts'
import { requireRoot, requireTools } from './tools.ts'

const timeout = 180_000

/** oras with what it needs to speak with Outport. */
const orasOf =
  (outport: Outport) =>
  (args: readonly string[], options: RunOptions = {}): Promise<Result> => {
    const tls = outport.scheme === 'http' ? ['--plain-http'] : ['--ca-file', outport.ca]
    return runClient(outport, ['oras', ...args, ...tls], { trusted: false, ...options })
  }

async function logIn(outport: Outport, host: string, username: string, password: string) {
  const args = ['login', '-u', username, '--password-stdin', host]
  printed(await orasOf(outport)(args, { input: password }))
}

const type = 'application/x.test'
const referrerType = 'application/x.signature'

/** Pushes `<project>/artifact:v1` as admin, and attaches another to it. */
async function pushWithReferrer(outport: Outport, project: string): Promise<void> {
  const oras = orasOf(outport)
  const cwd = await subfolder(outport, 'files')
  await writeFile(join(cwd, 'content.txt'), 'content')
  await writeFile(join(cwd, 'signature.txt'), 'signature')
  await logIn(outport, outport.primary, 'admin', outport.password)
  const name = `${outport.primary}/${project}/artifact:v1`
  const push = ['push', '--artifact-type', type, name, 'content.txt:text/plain']
  printed(await oras(push, { cwd }))
  printed(await oras(['attach', '--artifact-type', referrerType, name, 'signature.txt'], { cwd }))
}

/** Pulls both through the edge: the artifact by its tag, the other as what refers to it. */
async function checkBoth(outport: Outport, project: string): Promise<void> {
  const oras = orasOf(outport)
  const through = `${outport.edge}/${project}/artifact`
  const pulled = await subfolder(outport, 'pulled')
  printed(await oras(['pull', '-o', pulled, `${through}:v1`]))
  assert.equal(await readFile(join(pulled, 'content.txt'), 'utf8'), 'content')
  const discover = ['discover', '--artifact-type', referrerType, '--format', 'json']
  const found = JSON.parse(printed(await oras([...discover, `${through}:v1`]))) as {
    referrers: { digest: string; artifactType: string }[]
  }
  assert.deepEqual(
    found.referrers.map(({ artifactType }) => artifactType),
    [referrerType],
  )
  printed(await oras(['pull', '-o', pulled, `${through}@${found.referrers[0]?.digest ?? ''}`]))
  assert.equal(await readFile(join(pulled, 'signature.txt'), 'utf8'), 'signature')
  await waitForRequests(outport, (requests) => requests.filter(isEdgeBlob).length >= 2)
}

test(
  'oras pulls a public artifact and what refers to it through the edge without a log-in',
  { timeout },
  async (t) => {
    if (!requireTools(t, 'oras')) return
    const outport = await startOutport(t)
    await pushWithReferrer(outport, 'library')
    await checkBoth(outport, 'library')
  },
)

test(
  "oras pulls a private artifact and what refers to it through the edge over TLS with a robot's log-in, and not without",
  { timeout },
  async (t) => {
    if (!requireTools(t, 'oras', 'curl') || !requireRoot(t)) return
    const outport = await startOutport(t, { tls: true })
    await createPrivateProject(outport, 'secret')
    const { username, password } = await createRobot(outport, 'secret')
    await pushWithReferrer(outport, 'secret')
    const oras = orasOf(outport)
    const through = `${outport.edge}/secret/artifact:v1`
    for (const command of ['discover', 'pull']) {
      const refused = await oras([command, through])
      assert.notEqual(refused.code, 0, command)
      assert.match(refused.stderr, /unauthorized|401|denied/i)
    }
    await logIn(outport, outport.edge, username, password)
    await checkBoth(outport, 'secret')
    const push = await oras(['tag', through, 'v2'])
    assert.notEqual(push.code, 0, 'a push to an edge')
  },
)
