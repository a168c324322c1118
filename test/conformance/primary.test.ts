import { before } from 'node:test'
import { createImage, createIndex, pushImage } from '../kit/images.ts'
import { startTestPrimary, type TestPrimary } from '../kit/primary.ts'
import { describePull } from './pull.ts'
import { describePush } from './push.ts'
import { describeWorkflow } from './workflow.ts'

let primary: TestPrimary
before(async () => {
  primary = await startTestPrimary()
})

const open = async () => ({
  // Tokens, as real clients use them: each request has what its challenge asked for and no more.
  client: primary.client(primary.admin, 'bearer'),
  repository: 'library/conformance',
  otherRepository: 'library/conformance-other',
})

describePush('primary', open)
describeWorkflow('primary', open)
describePull('primary', async () => {
  const client = primary.client(primary.admin)
  const image = createIndex({ children: [createImage({ seed: 'pull' })] })
  await pushImage(client, 'library/pull', image, 'v1')
  return { client, repository: 'library/pull', image, tag: 'v1' }
})
