import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createServer, type RequestListener } from 'node:http'
import { connect, type AddressInfo, type Socket } from 'node:net'
import { text } from 'node:stream/consumers'
import { test, type TestContext } from 'node:test'
import { endTogether } from '../../../shared/http/end-together.ts'

async function open(t: TestContext, handler: RequestListener): Promise<Socket> {
  const server = createServer(handler).listen(0, '127.0.0.1')
  t.after(() => server.close())
  await once(server, 'listening')
  return connect((server.address() as AddressInfo).port, '127.0.0.1')
}

const ask = (path: string): string => `GET ${path} HTTP/1.1\r\nHost: here\r\n\r\n`
const last = 'GET /last HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n'

test('answers of one turn go out whole, in the order of their requests, after all were read', async (t) => {
  const steps: string[] = []
  const socket = await open(t, ({ url = '' }, response) => {
    const body = { '/none': undefined, '/buffer': Buffer.from('bytes'), '/last': 'a string' }[url]
    response.writeHead(200, { 'Content-Length': body?.length ?? 0, 'X-Path': url })
    endTogether(response, body)
    steps.push(`${url} ${response.writableEnded}`)
  })
  socket.write(ask('/none') + ask('/buffer') + last)
  const answers = (await text(socket)).split(/(?=HTTP\/1\.1 )/)
  assert.deepEqual(
    answers.map((answer) => /X-Path: (\S+)[^]*\r\n\r\n([^]*)$/.exec(answer)?.slice(1)),
    [
      ['/none', ''],
      ['/buffer', 'bytes'],
      ['/last', 'a string'],
    ],
  )
  assert.deepEqual(steps, ['/none false', '/buffer false', '/last false'])
})

test('a response that was destroyed meanwhile is left alone', async (t) => {
  const closed = Promise.withResolvers<boolean>()
  const gone = await open(t, (request, response) => {
    response.writeHead(200, { 'Content-Length': 4 })
    response.on('error', closed.reject)
    // Errors come before the turn that follows this one.
    response.on('close', () => setImmediate(() => closed.resolve(response.writableFinished)))
    endTogether(response, 'four')
    if (request.url === '/gone') response.destroy()
  })
  gone.on('error', () => undefined)
  gone.write(ask('/gone'))
  assert.equal(await closed.promise, false)
})
