import assert from 'node:assert/strict'
import { once } from 'node:events'
import { get, type IncomingMessage } from 'node:http'
import { test } from 'node:test'
import { addColdBlob, assertPulls } from '../kit/interrupted-pulls.ts'
import { residentBytes } from '../kit/process-figures.ts'
import { startTestUp } from '../kit/up.ts'
import { startUpstream } from '../kit/upstream.ts'

const mebibyte = 1024 * 1024
const readers = 16

/** Asks, and reads no more than the head and what comes with it. */
async function openAndPause(url: URL): Promise<IncomingMessage> {
  const outgoing = get(url, { agent: false })
  const [incoming] = (await once(outgoing, 'response')) as [IncomingMessage]
  assert.equal(incoming.statusCode, 200)
  return incoming
}

async function assertReads(incoming: IncomingMessage, expected: Buffer): Promise<void> {
  let offset = 0
  for await (const chunk of incoming as AsyncIterable<Buffer>) {
    assert.ok(chunk.equals(expected.subarray(offset, offset + chunk.length)), `at ${offset}`)
    offset += chunk.length
  }
  assert.equal(offset, expected.length)
}

test('readers that do not read cost an edge no memory, while it fills and when it is filled', async (t) => {
  const upstream = await startUpstream()
  t.after(() => upstream.close())
  const config = {
    edge: {
      upstreams: [{ id: 'origin', url: upstream.url.origin }],
      // However busy the machine is.
      timeouts: { idle: '10m' },
    },
  }
  const up = await startTestUp(t, { config })
  // What a first pull allocates for good is not what this is about.
  await assertPulls(up, addColdBlob(upstream, 'warm', 64 * mebibyte))
  const before = residentBytes(up.pidOf('edge'))

  const cold = addColdBlob(upstream, 'cold', 64 * mebibyte)
  const url = new URL(cold.path, up.urls.edge)
  const open = () => Promise.all(Array.from({ length: readers }, () => openAndPause(url)))
  const [filling] = await Promise.all([open(), assertPulls(up, cold)])
  const filled = await open()
  // The others get all of it meanwhile: nobody waits for those.
  await assertPulls(up, cold)
  const grown = residentBytes(up.pidOf('edge')) - before
  t.diagnostic(`${2 * readers} readers of 64 MiB: ${Math.round(grown / mebibyte)} MiB more`)
  // The pool of all fills is 64 MiB; in memory, what is not read would be 2 GiB.
  assert.ok(grown < 192 * mebibyte, `${grown} bytes more`)

  await Promise.all([...filling, ...filled].map((each) => assertReads(each, cold.blob.bytes)))
  assert.equal(upstream.delivered(cold.blob.digest).bytes, cold.blob.bytes.length)
})
