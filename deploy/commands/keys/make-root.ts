import { defineCommand } from '../../command-line.ts'

/** `outport keys make-root` */
export const makeRoot = defineCommand({
  name: 'keys make-root',
  summary: 'make a root in a file of its own (mode 0600), which is kept offline',
  words: ['FILE'],
  options: {},
  notes: `It is the only copy. 'outport keys rotate root --to FILE' makes it the root of a primary.`,
  async run(_options, [path = '']) {
    const { makeRootFile } = await import('./root-file.ts')
    const { fingerprint } = await makeRootFile(path)
    process.stdout.write(`${fingerprint}\n`)
    return 0
  },
})
