import assert from 'node:assert/strict'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import packageJson from '../../package.json' with { type: 'json' }
import { waitFor } from '../kit/clock.ts'
import { startFakeConsul } from '../kit/consul.ts'
import { startTestEdge } from '../kit/edge.ts'
import { tempFolder } from '../kit/temp.ts'

test('an edge is in Consul while it runs, also when Consul came later', async (t) => {
  const consul = await startFakeConsul(t)
  consul.break({ status: 503 })
  const credential_file = join(await tempFolder(t), 'secret')
  await writeFile(credential_file, 'secret')
  const edge = await startTestEdge(t, {
    edge: {
      id: 'e1',
      credential_file,
      follow: false,
      consul: { address: consul.url.origin, site: 'berlin', region: 'eu', tags: ['pull'] },
    },
  })
  await waitFor('a try', () => consul.requests.length > 0)
  consul.break()
  await waitFor('the registration', () => consul.services.size > 0)
  const service = consul.services.get('outport-edge-e1')?.registration
  assert.deepEqual(service?.['Meta'], {
    id: 'e1',
    url: edge.url.origin,
    version: packageJson.version,
    site: 'berlin',
    region: 'eu',
  })
  assert.deepEqual(
    [service?.['Address'], service?.['Port'], service?.['Tags']],
    ['127.0.0.1', Number(edge.url.port), ['pull']],
  )
  await edge.stop()
  assert.equal(consul.services.size, 0)
})

test('an edge without an id cannot be told to be in Consul', async (t) => {
  await assert.rejects(
    startTestEdge(t, { edge: { consul: { ttl: '20s' } } }),
    /^Error: edge\.id is missing/,
  )
})
