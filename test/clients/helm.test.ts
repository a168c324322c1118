import assert from 'node:assert/strict'
import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { digestOf } from '../../shared/oci/digest.ts'
import { createPrivateProject, createRobot, printed, runClient } from './images.ts'
import { startOutport, subfolder, type Outport } from './outport.ts'
import type { RunOptions } from './process.ts'
import { isEdgeBlob, waitForRequests } from './requests.ts'
import { requireRoot, requireTools } from './tools.ts'

const timeout = 180_000

/** Packages a chart of version 1.0.0+b1, which a tag cannot spell. @returns the path of the .tgz */
async function packageChart(outport: Outport): Promise<string> {
  const folder = await subfolder(outport, 'chart/app/templates')
  const chart = join(folder, '..')
  await writeFile(join(chart, 'Chart.yaml'), 'apiVersion: v2\nname: app\nversion: 1.0.0+b1\n')
  await writeFile(join(folder, 'empty.yaml'), '')
  const to = await subfolder(outport, 'packaged')
  printed(await runClient(outport, ['helm', 'package', chart, '--destination', to]))
  return join(to, 'app-1.0.0+b1.tgz')
}

/** helm with what it needs to speak with Outport. */
function helmOf(outport: Outport) {
  const tls = outport.scheme === 'http' ? ['--plain-http'] : ['--ca-file', outport.ca]
  const use = (args: readonly string[], options: RunOptions = {}) =>
    runClient(outport, ['helm', ...args, ...tls], { trusted: false, ...options })
  return {
    use,
    logIn: async (host: string, username: string, password: string) =>
      printed(
        await use(['registry', 'login', host, '-u', username, '--password-stdin'], {
          input: password,
        }),
      ),
    /** Pulls by a range of versions, which helm looks for in the list of tags. */
    pull: async (chart: string, name: string) => {
      const to = await subfolder(outport, name)
      const result = await use(['pull', chart, '--version', '>=1.0.0', '-d', to])
      return { result, path: join(to, 'app-1.0.0+b1.tgz') }
    },
  }
}

async function checkPull(outport: Outport, project: string, packaged: string): Promise<void> {
  const { result, path } = await helmOf(outport).pull(
    `oci://${outport.edge}/${project}/app`,
    `pulled-${project}`,
  )
  printed(result)
  assert.equal(digestOf(await readFile(path)), digestOf(await readFile(packaged)))
  await waitForRequests(outport, (requests) => requests.some(isEdgeBlob))
}

test('helm pulls a public chart through the edge without a log-in', { timeout }, async (t) => {
  if (!requireTools(t, 'helm')) return
  const outport = await startOutport(t)
  const packaged = await packageChart(outport)
  const helm = helmOf(outport)
  await helm.logIn(outport.primary, 'admin', outport.password)
  printed(await helm.use(['push', packaged, `oci://${outport.primary}/library`]))
  await checkPull(outport, 'library', packaged)
})

test(
  "helm pulls a private chart through the edge over TLS with a robot's log-in, and not without",
  { timeout },
  async (t) => {
    if (!requireTools(t, 'helm', 'curl') || !requireRoot(t)) return
    const outport = await startOutport(t, { tls: true })
    await createPrivateProject(outport, 'secret')
    const { username, password } = await createRobot(outport, 'secret')
    const packaged = await packageChart(outport)
    const helm = helmOf(outport)
    await helm.logIn(outport.primary, 'admin', outport.password)
    printed(await helm.use(['push', packaged, `oci://${outport.primary}/secret`]))
    const refused = await helm.pull(`oci://${outport.edge}/secret/app`, 'refused')
    assert.notEqual(refused.result.code, 0)
    assert.match(refused.result.stderr, /unauthorized|401|denied/i)
    await helm.logIn(outport.edge, username, password)
    await checkPull(outport, 'secret', packaged)
  },
)
