import assert from 'node:assert/strict'
import { test } from 'node:test'
import { startUpstream } from '../kit/upstream.ts'
import { mayRunContainerd, startContainerd } from './containerd.ts'
import { fillHub } from './hub.ts'
import { createPrivateProject, createRobot, printed, pushRandomImage } from './images.ts'
import { readmeRegistriesYaml, renderRegistriesYaml } from './k3s.ts'
import { startOutport, subfolder, testHosts } from './outport.ts'
import { isEdgeBlob, waitForRequests } from './requests.ts'
import { requireTool } from './tools.ts'

const timeout = 180_000

for (const version of ['1.6', '2.4'] as const) {
  test(
    `k3s's containerd ${version} pulls docker.io images and private ones by README's registries.yaml`,
    { timeout },
    async (t) => {
      if (!mayRunContainerd(t, version) || requireTool(t, 'curl') === undefined) return
      const hub = await startUpstream()
      t.after(() => hub.close())
      const outport = await startOutport(t, { tls: true, dockerHub: hub.url.origin })
      const digest = await fillHub(outport, hub)
      await createPrivateProject(outport, 'secret')
      const image = `${outport.primary}/secret/app:v1`
      await pushRandomImage(outport, image)
      const { username, password } = await createRobot(outport, 'secret')
      const render = async (secret: string) => {
        const yaml = await readmeRegistriesYaml({
          '127.0.0.1:8082': outport.mirror,
          'registry.example.com': outport.primary,
          'edge.example.com:8081': outport.edge,
          'robot$team+puller': username,
          '…': secret,
          '/etc/ssl/outport-ca.crt': outport.ca,
        })
        const folder = await subfolder(outport, 'certs.d')
        return renderRegistriesYaml(yaml, { version, folder })
      }
      const refusing = await startContainerd(t, outport, {
        version,
        hosts: testHosts,
        config: await render('wrong'),
      })
      const refused = await refusing.crictl(['pull', image])
      assert.notEqual(refused.code, 0, 'a pull with a wrong password')
      await refusing.stop()
      const containerd = await startContainerd(t, outport, {
        version,
        hosts: testHosts,
        config: await render(password),
      })
      printed(await containerd.crictl(['pull', 'docker.io/library/app:v1']))
      assert.ok(hub.delivered(digest).gets > 0)
      printed(await containerd.crictl(['pull', image]))
      const listeners = ['mirror', 'edge']
      await waitForRequests(outport, (requests) =>
        listeners.every((name) =>
          requests.some((request) => isEdgeBlob(request) && request.listener === name),
        ),
      )
    },
  )
}
