// First: its hook must run before the one that stops the database server.
import '../kit/at-end.ts'
import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { startTestEdge } from '../kit/edge.ts'
import { createImage, pushImage } from '../kit/images.ts'
import { startTestPrimary } from '../kit/primary.ts'
import { tempFolder } from '../kit/temp.ts'
import { run } from './process.ts'
import { requireTool } from './tools.ts'

/**
 * The suite's reporter crashes when pushing is off and all is run at once; each part by itself does not.
 * With pushing off, all deletions must be off too, or they really delete.
 */
const parts = ['read-only', 'ping', 'empty', 'missing-manifest', 'invalid-digest-format']
const off = [
  'PUSH',
  'TAGS_DELETE',
  'TAGS_ATOMIC',
  'MANIFESTS_DELETE',
  'MANIFESTS_ATOMIC',
  'BLOBS_DELETE',
  'BLOBS_ATOMIC',
]

test('the pull part of the official suite passes at an edge', { timeout: 300_000 }, async (t) => {
  const program = requireTool(t, 'conformance')
  if (program === undefined) return
  const folder = await tempFolder(t)
  const credential_file = join(folder, 'secret')
  await writeFile(credential_file, randomBytes(32).toString('hex'))
  const edges = [{ id: 'one', credential_file, accept_people: true }]
  const primary = await startTestPrimary({ primary: { edges } })
  await primary.createProject('conformance', { isPublic: false })
  const image = createImage({ seed: 'conformance' })
  await pushImage(primary.client(primary.admin), 'conformance/repo1', image, 'v1')
  const signature = createImage({
    seed: 'signature',
    artifactType: 'application/x.test',
    subject: image.manifest,
  })
  await pushImage(primary.client(primary.admin), 'conformance/repo1', signature, 'signed')
  const edge = await startTestEdge(t, {
    edge: { id: 'one', credential_file, primary: { url: primary.url.origin, tag_ttl: '0s' } },
  })
  for (const part of parts) {
    const { stdout, stderr } = await run(program, [], {
      cwd: folder,
      env: {
        ...Object.fromEntries(off.map((name) => [`OCI_API_${name}`, 'false'])),
        OCI_FILTER_TEST: `OCI Conformance Test/${part}`,
        OCI_REGISTRY: edge.url.host,
        OCI_TLS: 'disabled',
        OCI_REPO1: 'conformance/repo1',
        OCI_REPO2: 'conformance/repo2',
        OCI_USERNAME: primary.admin.username,
        OCI_PASSWORD: primary.admin.password,
        OCI_RO_DATA_TAGS: 'v1 signed',
        OCI_RO_DATA_MANIFESTS: `${image.manifest.digest} ${signature.manifest.digest}`,
        OCI_RO_DATA_BLOBS: image.blobs.map(({ digest }) => digest).join(' '),
        OCI_RO_DATA_REFERRERS: image.manifest.digest,
        OCI_RESULTS_DIR: join(folder, part),
        OCI_LOG: 'error',
      },
    })
    assert.match(
      stdout,
      /^OCI Conformance Result: Pass$/m,
      `${part}: ${stdout.slice(-3000)}${stderr}`,
    )
    for (const none of ['FAIL', 'Error', 'Skip'])
      assert.match(
        stdout,
        new RegExp(`^ {2}${none}\\.+: +0$`, 'm'),
        `${part}: ${stdout.slice(-3000)}`,
      )
    assert.match(stdout, /^ {2}Pass\.+: +[1-9]/m, part)
  }
})
