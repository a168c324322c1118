import { readTextFile } from '../../../shared/files/text-file.ts'
import { defineCommand } from '../../command-line.ts'
import { adminOptions } from '../edges/options.ts'

/** `outport keys submit` */
export const submit = defineCommand({
  name: 'keys submit',
  summary: "hand in a list that 'keys sign --out' signed on another machine",
  words: ['SIGNED'],
  options: adminOptions,
  async run(options, [path = '']) {
    const { withAdminApi } = await import('../../admin-api.ts')
    const { parsePending, submitPending } = await import('./pending-list.ts')
    const signed = parsePending(await readTextFile(path), path)
    return withAdminApi(options, async (api) => {
      await submitPending(api, signed)
      if (!options.json) process.stdout.write('The list is signed, and in force.\n')
      return 0
    })
  },
})
