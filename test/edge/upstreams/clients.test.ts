import assert from 'node:assert/strict'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, test } from 'node:test'
import { makeCertificate } from '../../kit/certificates.ts'
import { startTestEdge } from '../../kit/edge.ts'
import { startProxy } from '../../kit/proxy.ts'
import { tempFolder } from '../../kit/temp.ts'
import { addImage, startUpstream } from '../../kit/upstream.ts'

describe('an edge', () => {
  test('pulls through its proxy, of which the log says where it is and nothing else', async (t) => {
    const upstream = await startUpstream()
    t.after(() => upstream.close())
    const image = addImage(upstream, 'library/app', { tag: 'v1' })
    const proxy = await startProxy(t, {
      to: { 'registry.test:5000': Number(upstream.url.port) },
      credentials: 'me:PLANTED',
    })
    const edge = await startTestEdge(t, {
      edge: {
        ready_made: [],
        upstreams: [{ id: 'docker.io', url: 'http://registry.test:5000' }],
        outbound: { proxy: proxy.url.href },
      },
    })
    const client = edge.mirrorClient()
    const manifest = await client.request('GET', '/v2/library/app/manifests/v1')
    assert.equal(manifest.status, 200)
    const blob = await client.request('GET', `/v2/library/app/blobs/${image.layer}`)
    assert.deepEqual(blob.body, image.content)
    assert.deepEqual([...new Set(proxy.connects)], ['registry.test:5000'])
    const lines = edge.log.map((line) => JSON.stringify(line))
    assert.ok(lines.some((line) => line.includes(`"url":"${proxy.url.origin}"`)))
    assert.ok(lines.every((line) => !line.includes('PLANTED')))
  })

  test('does not start with a certificate for an upstream that is not of its key, and says so in one line', async (t) => {
    const folder = await tempFolder(t)
    const client_cert = { cert: join(folder, 'tls.crt'), key: join(folder, 'tls.key') }
    await writeFile(client_cert.cert, makeCertificate().cert)
    await writeFile(client_cert.key, makeCertificate().key)
    const upstreams = [{ id: 'docker.io', url: 'https://registry.test', client_cert }]
    await assert.rejects(startTestEdge(t, { edge: { ready_made: [], upstreams } }), {
      name: 'TlsFilesError',
      message: `${client_cert.key} is not the key of the certificate in ${client_cert.cert}`,
    })
  })
})
